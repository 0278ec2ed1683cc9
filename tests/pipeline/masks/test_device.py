"""What the mask engine does where a device works beside the host: static shapes, no waiting, little memory. Run on the CPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from samdiff.errors import ConfigError
from samdiff.pipeline.masks.adapters import MasksFromLR
from samdiff.pipeline.masks.engine import MaskEngine, points_for_cache
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.host_copy import to_host
from samdiff.pipeline.masks.interpolation import Axis, Frame, make_frame
from samdiff.pipeline.masks.iou_filter import EagerFilter, StaticFilter
from samdiff.pipeline.masks.measure import bound, compacted, measure
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.prepare.mask_stage import images_per_task
from samdiff.pipeline.sam.load import build_segmenter
from samdiff.pipeline.sam.matmul import linear

from ..sam.test_segmenters import sample
from .test_masks import CUT, assert_same_masks


@pytest.mark.weights
def test_little_memory_changes_no_mask(mobile_sam, caplog):
    """Measuring candidates early, and continuing with half of the points after an out-of-memory error; twice is an error."""
    image = sample("coffee.png")[:200]
    generator = MaskGenerator(mobile_sam, points_per_side=4)
    expected, engine = generator.generate(image), generator.engine
    assert len(expected) > 1
    engine.pool_bytes, points, allowed = 1, engine.decode, 8

    def scarce(side, prompts):
        if len(prompts) > allowed:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return points(side, prompts)

    engine.chunk, engine.decode = 16, scarce
    assert generator.generate(image) == expected
    assert "continuing with 8 points at a time" in caplog.text
    allowed = 4
    with pytest.raises(ConfigError, match="out of memory on cpu with 8 points at a time.*--points-per-batch"):
        generator.generate(image)


def records_of_all(generator, pictures):
    return [table.records() for table in generator.generate_batch(pictures)]


@pytest.mark.weights
def test_little_memory_for_the_encoder_changes_no_mask(mobile_sam, caplog):
    """Half of the images per batch as often as it takes; too little for one image is an error that says what helps."""
    pictures = [sample("coffee.png")[:200], sample("chelsea.png")[:200], sample("coffee.png")[:, :150]]
    generator = MaskGenerator(mobile_sam, points_per_side=3)
    expected, engine = records_of_all(generator, pictures), generator.engine
    encoder, allowed = engine.encoder, 2

    def scarce(pixels):
        if len(pixels) > allowed:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return encoder(pixels)

    engine.static, engine.encoder_batch, engine.encoder = True, 8, scarce
    for ours, theirs in zip(records_of_all(generator, pictures), expected, strict=True):
        assert_same_masks(ours, theirs)
    assert "continuing with 2 images per encoder batch" in caplog.text
    allowed = 0
    with pytest.raises(ConfigError, match="out of memory on cpu with one image.*--sam"):
        generator.generate(pictures[0])


@pytest.mark.weights
def test_static_shapes_change_no_mask(mobile_sam):
    """What CUDA does, on the CPU: padded batches and chunks, candidates compacted on the device, in one round and in several."""
    pictures = [sample("coffee.png")[:200], sample("chelsea.png"), sample("coffee.png")[:, :150]]
    generator = MaskGenerator(mobile_sam, points_per_side=4)
    expected, engine = records_of_all(generator, pictures), generator.engine
    assert sum(map(len, expected)) > 4
    engine.static, engine.encoder_batch, engine.chunk = True, 2, 6
    engine.decoder.pixel_batch = 4
    for engine.pool_bytes in (1 << 30, 1):
        for ours, theirs in zip(records_of_all(generator, pictures), expected, strict=True):
            assert_same_masks(ours, theirs)


@pytest.mark.weights
def test_no_chunk_waits_for_the_device(mobile_sam):
    """With static shapes nothing before the end of a round depends on a value: such an operation is refused on fake tensors."""
    engine = MaskEngine(mobile_sam.model, MaskConfig(points_per_side=2))
    frame = engine.frame(300, 451)
    with torch.inference_mode():
        prompts = engine._prompts(engine.grids[0] * 300, frame)
        linear(torch.ones(1, 1), torch.ones(1, 1))  # looks once which product there is
        with FakeTensorMode(allow_non_fake_inputs=True):
            image = engine.decoder.image_side(torch.empty(256, 64, 64))
            padded = StaticFilter(engine.decoder, frame, 0.88, points=4, device=engine.device)
            padded.add(engine.decode(image, prompts + 0), 0, 3)
            listed = EagerFilter(engine.decoder, frame, 0.88)
            with pytest.raises((DataDependentOutputException, RuntimeError)):
                listed.add(engine.decode(image, prompts + 0), 0, 3)


class Waits(TorchDispatchMode):
    """Notes operations for which a GPU's host waits: a value is read, or a tensor is made of numbers on the host."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if any(name in str(operation) for name in ("_local_scalar_dense", "lift_fresh", "aten.nonzero.")):
            self.found.append(operation)
        return operation(*args, **(kwargs or {}))


def test_measuring_does_not_wait_for_the_device():
    """On fake tensors of a GPU, which also refuse to be mixed with those of a CPU."""
    real = make_frame(300, 451, n_low=256, n_model=1024, device=torch.device("cpu"))
    with FakeTensorMode():

        def there(axis):
            parts = (axis.matrix, axis.low, axis.start, axis.length, axis.weights)
            return Axis(*(torch.empty(part.shape, dtype=part.dtype, device="cuda") for part in parts))

        frame = Frame(there(real.y), there(real.x))
        logits = torch.empty(3, frame.y.n_low, frame.x.n_low, device="cuda")
        with Waits() as waits:
            found = measure(logits, bound(logits, frame, CUT), n_cells=100_000, frame=frame, cut=CUT)
            assert found.stability.is_cuda
            assert found.box.is_cuda
            assert waits.found == []
            torch.tensor([1, 2], device="cuda")
            assert waits.found != []


def test_places_of_what_is_true():
    flags = torch.rand(1000, generator=torch.Generator().manual_seed(1)) > 0.7
    for some in (flags, ~flags & flags, flags | ~flags, flags[:0]):
        assert compacted(some, int(some.sum())).tolist() == some.nonzero()[:, 0].tolist()


def test_the_buffer_of_a_round_is_not_kept(mobile_sam):
    """What passes is copied out of it: else each round of a large grid would hold room for all of its masks."""
    engine = MaskEngine(mobile_sam.model, MaskConfig(points_per_side=2))
    frame = engine.frame(300, 451)
    with torch.inference_mode():
        decoded = engine.decode(
            engine.decoder.image_side(torch.zeros(256, 64, 64)), engine._prompts(engine.grids[0] * 300, frame)
        )
        padded = StaticFilter(
            engine.decoder, frame, float(decoded.predicted_iou.flatten().topk(2).values[1]), points=4, device=engine.device
        )
        padded.add(decoded, 0, 4)
        passing = padded.passing()
    assert passing.logits.untyped_storage().nbytes() == passing.logits.numel() * 4
    assert len(passing.logits) == 1


def test_results_are_fetched_in_order_while_the_next_are_queued():
    queued = []

    def parts():
        for k in range(5):
            queued.append(k)
            yield k, torch.tensor([k])

    taken = []
    for key, array in to_host(parts(), ahead=2):
        taken.append((key, array.tolist(), len(queued)))
    assert taken == [(0, [0], 3), (1, [1], 4), (2, [2], 5), (3, [3], 5), (4, [4], 5)]


def test_chunks_are_sized_to_the_cache():
    """L2 of an RTX 3090, an A100, an H100 and a B200; 4 MiB of image tokens per point in float32."""
    assert [points_for_cache(mb << 20, 4 << 20) for mb in (6, 40, 50, 126)] == [8, 8, 16, 32]
    assert points_for_cache(1 << 40, 4 << 20) == 64


def test_compile_is_for_fast_alone():
    with pytest.raises(ConfigError, match="compile: only with mode fast"):
        MaskConfig(compile=True)
    assert MaskConfig(mode="fast", compile=True).as_attributes()["compile"] is True


@pytest.mark.weights
def test_fast_says_when_the_device_has_no_bf16(mobile_sam, monkeypatch, caplog):
    monkeypatch.setattr("samdiff.pipeline.masks.settings.has_native_bf16", lambda device: False)
    generator = MaskGenerator(mobile_sam, mode="fast", points_per_side=1)
    assert generator.describe()["dtype"] == "float32"
    assert "has no instructions for bfloat16" in caplog.text


def test_images_of_a_batch_are_resized_in_threads():
    """The input of each, in order; and how many images a worker takes at once."""
    generator = MaskGenerator(build_segmenter("mobile_sam"), points_per_side=1)
    engine = generator.engine
    images = [sample("coffee.png")[: 20 + 9 * k, : 90 - 7 * k].copy() for k in range(9)]
    for image, pixels in zip(images, engine._inputs(images), strict=True):
        assert torch.equal(pixels, engine.model.pixels(engine.model.resized(image)))
    assert images_per_task(generator) == 1
    engine.encoder_batch = 8
    assert images_per_task(generator) == images_per_task(MasksFromLR(generator, 4)) == 8
    assert images_per_task(object()) == 1
