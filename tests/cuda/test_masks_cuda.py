"""Masks on the device against the CPU: the same masks in the same order, for any batch size and with little memory."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.errors import ConfigError
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.host_copy import fetch, to_host
from samdiff.pipeline.sam.load import load_segmenter

from ..helpers.same_masks import assert_same_masks, overlaps
from ..helpers.zoo import photo
from ..pipeline.sam.test_segmenters import sample

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def on_device(mobile_sam, device):
    """MobileSAM on the device, from the same file."""
    return load_segmenter("mobile_sam", device, source="npm")


def golden(name: str) -> dict:
    """segment-anything's own masks of an image, 32 x 32 points, float32."""
    return json.loads((GOLDEN / f"amg_skimage_{name}.json").read_text())


@pytest.mark.weights
@pytest.mark.parametrize("name", ["chelsea", "astronaut", "coffee"])
def test_exact_masks_are_the_golden_ones(on_device, device, name):
    """All masks of segment-anything on a CPU, recorded. A rehearsal compares the first image only: each takes most of a minute."""
    if device.type == "cpu" and name != "chelsea":
        pytest.skip("a rehearsal compares one image")
    expected = golden(name)
    assert_same_masks(MaskGenerator(on_device).generate(sample(expected["image"])), expected["masks"])


@pytest.mark.weights
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_exact_masks_equal_those_of_the_cpu(mobile_sam, on_device, name):
    """Computed here on both, with few points."""
    image = sample(f"{name}.png")
    theirs = MaskGenerator(mobile_sam, points_per_side=6).generate(image)
    assert len(theirs) > 3
    assert_same_masks(MaskGenerator(on_device, points_per_side=6).generate(image), theirs)


@pytest.mark.weights
def test_fast_masks_are_nearly_the_exact_ones(on_device, device):
    """bf16: at least four fifths of the exact masks have a twin at IoU > .9, and the other way round."""
    image, points = sample("astronaut.png"), 32 if device.type == "cuda" else 6
    exact, fast = (MaskGenerator(on_device, mode=mode, points_per_side=points).generate(image) for mode in ("exact", "fast"))
    best = overlaps(exact, fast)
    assert (best.max(axis=1) > 0.9).mean() >= 0.8
    assert (best.max(axis=0) > 0.9).mean() >= 0.8


@pytest.mark.weights
def test_compiled_masks_are_nearly_the_eager_ones(on_device, device):
    """torch.compile with static shapes: the padding of chunks and batches is never seen."""
    if device.type == "cpu":
        pytest.skip("a rehearsal does not compile the segmenter, which takes minutes")
    image = sample("coffee.png")
    eager, compiled = (
        MaskGenerator(on_device, mode="fast", compile=value, points_per_side=7).generate(image) for value in (False, True)
    )
    assert (overlaps(eager, compiled).max(axis=1) > 0.9).mean() >= 0.9


@pytest.mark.weights
def test_a_batch_gives_the_masks_of_one_image_at_a_time(on_device, device):
    """More images than an encoder batch holds, of several sizes; padded batches and chunks change nothing."""
    batch = 8 if device.type == "cuda" else 2
    images = [sample("coffee.png")[: 200 + 20 * k, : 300 - 10 * k] for k in range(batch + 1)]
    generator = MaskGenerator(on_device, points_per_side=3)
    generator.engine.encoder_batch = batch
    together = [table.records() for table in generator.generate_batch(images)]
    generator.engine.encoder_batch = 1
    for ours, image in zip(together, images, strict=True):
        assert_same_masks(ours, generator.generate(image))


@pytest.mark.weights
def test_the_encoder_gives_the_same_alone_and_in_a_batch(on_device, device):
    engine = MaskGenerator(on_device, points_per_side=2).engine
    images = [photo(90, 120, seed) for seed in range(8 if device.type == "cuda" else 3)]
    engine.encoder_batch = len(images)
    together = engine.encode(images)
    engine.encoder_batch = 1
    alone = engine.encode(images)
    assert together.device.type == device.type
    assert (together - alone).abs().max() <= 2e-3 * alone.abs().max()


@pytest.mark.weights
def test_static_shapes_change_no_mask(on_device, device):
    """What passes is compacted on the device, with padding and one wait, or chosen by the host chunk by chunk: the same masks."""
    image, results = sample("coffee.png"), []
    for static in (True, False):
        generator = MaskGenerator(on_device, points_per_side=7)  # 49 points: the last chunk is not full
        assert generator.engine.static == (device.type == "cuda")
        generator.engine.static, generator.engine.chunk = static, 16
        generator.engine.pool_bytes = 100 << 20  # several rounds
        results.append(generator.generate(image))
    assert len(results[0]) > 3
    assert_same_masks(*results)


@pytest.mark.weights
def test_little_memory_changes_no_mask(on_device, caplog):
    """An injected out-of-memory error halves the points at a time; the masks stay. The second one is an error."""
    image = sample("coffee.png")[:200]
    generator = MaskGenerator(on_device, points_per_side=10)
    expected, engine = generator.generate(image), generator.engine
    engine.chunk = 32
    decode, most = engine.decode, 16

    def scarce(side, prompts):
        if len(prompts) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (injected)")
        return decode(side, prompts)

    engine.decode = scarce
    assert_same_masks(generator.generate(image), expected)
    assert "16 points at a time" in caplog.text
    most = 4
    with pytest.raises(ConfigError, match="out of memory .* with 16 points at a time"):
        generator.generate(image)


@pytest.mark.weights
def test_little_memory_changes_no_embedding(on_device, caplog):
    """The same for the encoder: 4 images at a time, then 2, then 1."""
    engine = MaskGenerator(on_device, points_per_side=2).engine
    images = [photo(60, 80, seed) for seed in range(3)]
    engine.encoder_batch = 1
    expected, encoder = engine.encode(images), engine.encoder
    engine.encoder_batch = 4

    def scarce(pixels):
        if len(pixels) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (injected)")
        return encoder(pixels)

    engine.encoder = scarce
    assert (engine.encode(images) - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert engine.encoder_batch == 1
    assert "1 images per encoder batch" in caplog.text


def test_copies_to_the_host_are_whole(device):
    """Each tensor is computed after a long queue and overwritten after it was sent: the copy is that of its own moment."""
    busy = torch.ones(1500, 1500, device=device) / 1500

    def parts():
        value = torch.zeros(1 << 20, device=device)
        for k in range(6):
            for _ in range(10 if device.type == "cuda" else 1):
                busy.copy_(busy @ busy)
            yield k, value + k
        yield 6, torch.zeros(0, device=device)

    copied = list(to_host(parts()))
    assert [key for key, _ in copied] == list(range(7))
    for k, array in copied[:6]:
        assert array.dtype == np.float32
        assert (array == k).all()
    a, b = fetch(torch.arange(5, device=device), torch.ones(2, 3, device=device))
    assert a.tolist() == [0, 1, 2, 3, 4]
    assert b.shape == (2, 3)


@pytest.mark.weights
def test_images_preprocessed_in_another_thread_give_the_same_masks(on_device, device):
    """As `prepare` does: resized, and pinned for a GPU, in a thread while the device works."""
    images = [sample("coffee.png")[: 150 + 30 * k, : 300 - 20 * k] for k in range(9 if device.type == "cuda" else 2)]
    generator = MaskGenerator(on_device, points_per_side=3)
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.map(generator.preprocess_ahead, images)
        ours = [table.records() for table in generator.generate_batch(ahead)]
    assert all(crop.is_pinned() == (device.type == "cuda") for crop in generator.preprocess_ahead(images[0]).crops)
    for records, image in zip(ours, images, strict=True):
        assert_same_masks(records, generator.generate(image))
