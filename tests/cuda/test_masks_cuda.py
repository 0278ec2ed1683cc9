"""Masks on the device against the CPU: the same masks in the same order, for any batch size and with little memory."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.sam.load import load_segmenter

from ..helpers.zoo import photo
from ..pipeline.sam.test_segmenters import sample

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def on_device(mobile_sam, device):
    """MobileSAM on the device, from the same file."""
    return load_segmenter("mobile_sam", device, source="npm")


def agreement(ours: list[dict], theirs: list[dict]) -> np.ndarray:
    """IoU of the masks of the same number."""
    assert len(ours) == len(theirs)
    return np.array([coco.iou([a["segmentation"]], [b["segmentation"]], [0])[0, 0] for a, b in zip(ours, theirs, strict=True)])


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png"])
def test_exact_masks_equal_those_of_the_cpu(mobile_sam, on_device, name):
    image = sample(name)
    theirs = MaskGenerator(mobile_sam, points_per_side=8).generate(image)
    ours = MaskGenerator(on_device, points_per_side=8).generate(image)
    assert len(theirs) > 3
    assert agreement(ours, theirs).min() >= 0.999
    for a, b in zip(ours, theirs, strict=True):
        assert a["point_coords"] == b["point_coords"]
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-4)


def test_fast_masks_are_nearly_the_exact_ones(on_device):
    image = sample("coffee.png")
    exact, fast = (MaskGenerator(on_device, points_per_side=8, mode=mode).generate(image) for mode in ("exact", "fast"))
    overlap = coco.iou([r["segmentation"] for r in exact], [r["segmentation"] for r in fast], [0] * len(fast))
    assert (np.asarray(overlap).reshape(len(exact), len(fast)).max(axis=1) > 0.9).mean() >= 0.8


def test_a_batch_gives_the_masks_of_one_image_at_a_time(on_device):
    """More images than an encoder batch holds, of several sizes; padded batches and chunks change nothing."""
    images = [sample("coffee.png")[: 200 + 20 * k, : 300 - 10 * k] for k in range(9)]
    generator = MaskGenerator(on_device, points_per_side=3)
    together = [table.records() for table in generator.generate_batch(images)]
    for ours, image in zip(together, images, strict=True):
        assert agreement(ours, generator.generate(image)).min(initial=1) >= 0.999


def test_the_encoder_gives_the_same_alone_and_in_a_batch(on_device, device):
    engine = MaskGenerator(on_device, points_per_side=2).engine
    images = [photo(90, 120, seed) for seed in range(8)]
    together = engine.encode(images)
    alone = torch.cat([engine.encode([image]) for image in images])
    assert together.device.type == device.type
    assert (together - alone).abs().max() <= 2e-3 * alone.abs().max()


def test_little_memory_changes_no_mask(on_device, caplog):
    """An injected out-of-memory error halves the points at a time; the masks stay."""
    image = sample("coffee.png")[:200]
    generator = MaskGenerator(on_device, points_per_side=10)
    expected, engine = generator.generate(image), generator.engine
    engine.chunk = 32
    decode = engine.decode

    def scarce(side, prompts):
        if len(prompts) > 16:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (injected)")
        return decode(side, prompts)

    engine.decode = scarce
    assert agreement(generator.generate(image), expected).min(initial=1) >= 0.999
    assert "16 points at a time" in caplog.text
