"""Mode fast: fewer points, merged padding. Nearly the exact masks, the same ones each time, and never mixed with those of another version."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.fast_grid.version import GRID_VERSION
from samdiff.pipeline.masks.engine import MaskEngine
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.prepare.run import prepare
from samdiff.pipeline.prepare.settings import PrepareConfig
from samdiff.pipeline.sam.load import build_segmenter
from samdiff.runtime import has_native_bf16, setup_process

from ...helpers.same_masks import assert_same_masks, overlaps
from ...helpers.tiny_sam2 import tiny_sam2
from ..sam.test_segmenters import sample

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(autouse=True, scope="module")
def allocator():
    setup_process()


@pytest.mark.weights
def test_fast_finds_nearly_the_exact_masks(mobile_sam):
    """Of a wide image with 10 x 10 points, of which two thirds are prompted: at least nine tenths, few others. Twice the same."""
    image = sample("coffee.png")[100:300]
    generator = MaskGenerator(mobile_sam, mode="fast", points_per_side=10, fast_share=0.1)
    exact, fast = MaskGenerator(mobile_sam, points_per_side=10).generate(image), generator.generate(image)
    assert len(exact) > 4
    overlap = overlaps(exact, fast)
    assert (overlap.max(1) > 0.9).mean() >= 0.9
    assert len(fast) <= len(exact) + 1
    few = MaskGenerator(mobile_sam, mode="fast", points_per_side=3)
    assert few.generate(image) == few.generate(image)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_fast_on_golden_images(mobile_sam, name):
    """All masks of segment-anything, 7 and 13, at IoU > .9 with the default settings."""
    golden = json.loads((GOLDEN / f"amg_skimage_{name}.json").read_text())
    fast = MaskGenerator(mobile_sam, mode="fast").generate(sample(golden["image"]))
    assert (overlaps(golden["masks"], fast).max(1) > 0.9).all()
    assert len(fast) <= len(golden["masks"]) + 1


@pytest.mark.weights
def test_every_point_without_padding_is_exact(mobile_sam, monkeypatch):
    """With share 1 in float32, a square image has the masks of mode exact, bit for bit."""
    monkeypatch.setattr("samdiff.pipeline.masks.settings.has_native_bf16", lambda device: False)
    image = sample("coffee.png")[:200, :200]
    exact = MaskGenerator(mobile_sam, points_per_side=4).generate(image)
    assert len(exact) > 1
    assert MaskGenerator(mobile_sam, points_per_side=4, mode="fast", fast_share=1).generate(image) == exact


@pytest.mark.weights
def test_batches_and_static_shapes_change_no_mask(mobile_sam, monkeypatch):
    """Fewer points per batch; and what CUDA does (padded chunks, several points' tokens together), for a wide and a tall image."""
    monkeypatch.setattr("samdiff.pipeline.masks.settings.has_native_bf16", lambda device: False)
    image = sample("coffee.png")[100:220]
    for picture in (image, np.ascontiguousarray(image.transpose(1, 0, 2))):
        found = []
        for batch, static in ((64, False), (7, False), (6, True)):
            generator = MaskGenerator(mobile_sam, mode="fast", points_per_side=4, points_per_batch=batch)
            generator.engine.static = static
            generator.engine.decoder.pixel_batch = 4 if static else 1
            found.append(generator.generate(picture))
        assert len(found[0]) > 1
        assert_same_masks(found[1], found[0])
        assert_same_masks(found[2], found[0])


@pytest.mark.weights
def test_merged_padding_hardly_changes_the_decoder(mobile_sam):
    """Predicted IoU within .06, its mean difference below .01 (it was .03 without any padding), with fewer than half of the tokens."""
    engine = MaskEngine(mobile_sam.model, MaskConfig(mode="fast", points_per_side=3))
    image = sample("coffee.png")[100:250]
    frame = engine.frame(*image.shape[:2])
    embedding = engine.encode([image])[0]
    with torch.inference_mode():
        prompts = engine._prompts(engine.grids[0] * [image.shape[1], image.shape[0]], frame)
        padding = engine._padding(frame)
        full, merged = (engine.decode(engine.decoder.image_side(embedding, some), prompts) for some in (None, padding))
        assert merged.keys[0].shape[1] < 0.5 * full.keys[0].shape[1]
        difference = (full.predicted_iou - merged.predicted_iou).abs()
        rows, columns = frame.token_rows, frame.token_columns
        a, b = (engine.decoder.all_logits(decoded, rows, columns) > 0 for decoded in (full, merged))
    assert float(difference.max()) < 0.06
    assert float(difference.mean()) < 0.01
    assert float((a & b).sum() / (a | b).sum()) > 0.98


@pytest.mark.weights
def test_odd_images(mobile_sam):
    """One pixel, a line, an image smaller than the grid, and one colour."""
    generator = MaskGenerator(mobile_sam, mode="fast", points_per_side=3, fast_share=0)
    images = [np.zeros((1, 1, 3), np.uint8), sample("coffee.png")[:1, :90], sample("coffee.png")[:2, :2]]
    for image in [*images, np.full((40, 60, 3), 127, np.uint8)]:
        table = generator.masks(np.ascontiguousarray(image))
        assert (table.height, table.width) == image.shape[:2]


def test_what_fast_says_of_itself():
    """Version and share are part of it; mode exact says what it always said."""
    facts = MaskGenerator(build_segmenter("mobile_sam"), mode="fast").describe()
    assert (facts["fast_grid"], facts["fast_share"]) == (GRID_VERSION, 0.375)
    assert facts["dtype"] == ("bfloat16" if has_native_bf16(torch.device("cpu")) else "float32")
    assert not {"fast_grid", "fast_share"} & MaskConfig().as_attributes().keys()
    assert not {"mode", "fast_share"} & MaskConfig().amg_arguments().keys()
    with pytest.raises(ConfigError, match="fast_share: only with mode fast"):
        MaskConfig(fast_share=0.5)
    with pytest.raises(ConfigError, match="fast_share"):
        MaskConfig(mode="fast", fast_share=1.5)


def test_sam2(monkeypatch):
    """Its images are stretched, so no token is padding; every point: the masks of mode exact, bit for bit; one cell: 1 + 4 points of 16."""
    monkeypatch.setattr("samdiff.pipeline.masks.settings.has_native_bf16", lambda device: False)
    model, image = tiny_sam2(), sample("chelsea.png")[40:100, 60:190].copy()
    given = {"points_per_side": 4, "stability_score_thresh": 0.5, "box_nms_thresh": 1.0, "pred_iou_thresh": 0.5}
    exact = MaskGenerator(model, **given).generate(image)
    assert MaskGenerator(model, mode="fast", fast_share=1, **given).generate(image) == exact
    given["point_grids"], given["points_per_side"] = [MaskGenerator(model, **given).engine.grids[0] / 8], None
    fast = MaskGenerator(model, mode="fast", fast_share=0.25, **given)
    points = {tuple(record["point_coords"][0]) for record in fast.generate(image)}
    assert 1 <= len(points) <= 1 + 4 < len({tuple(record["point_coords"][0]) for record in exact})
    assert fast.engine._padding(fast.engine.frame(60, 130)) is None


def test_contrast_of_sam2_covers_the_stretched_image():
    """One token in row 60 differs: the point there has the largest value, although the image is wide."""
    engine = MaskGenerator(tiny_sam2(), mode="fast", points_per_side=64).engine
    embedding = torch.zeros(1024, 64, 64)
    embedding[:256, 60, 10] = 1
    embedding[256:, 5, 5] = 100  # finer maps do not count
    values = engine.contrast(embedding, engine.grids[0], engine.frame(100, 400))
    assert int(values.argmax()) == 60 * 64 + 10


class Segmenter:
    """Says what it is told to, and finds nothing."""

    def __init__(self, facts, stop=False):
        self.facts, self.stop = facts, stop

    def describe(self):
        return self.facts

    def generate_batch(self, images):
        for _ in images:
            yield []
            if self.stop:
                raise KeyboardInterrupt


def test_a_store_of_the_former_fast_mode_is_not_continued(tmp_path):
    """Begun or finished, the difference is named."""
    import cv2

    source = tmp_path / "source"
    source.mkdir()
    for name in "ab":
        cv2.imwrite(str(source / f"{name}.png"), np.random.default_rng(ord(name)).integers(0, 255, (64, 64, 3), np.uint8))
    now = {"name": "mobile_sam", **MaskConfig(mode="fast").as_attributes()}
    before = {key: value for key, value in now.items() if not key.startswith("fast")}
    out, settings = tmp_path / "out" / "x.zarr", PrepareConfig(tile=64)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, Segmenter(before, stop=True), settings)
    with pytest.raises(StoreError, match=r"segmenter\.fast_grid: was None, now 1; segmenter\.fast_share: was None"):
        prepare(source, out, Segmenter(now), settings)
    finished = tmp_path / "out" / "y.zarr"
    prepare(source, finished, Segmenter(before), settings)
    with pytest.raises(StoreError, match=r"segmenter\.fast_grid: was None, now 1"):
        prepare(source, finished, Segmenter(now), settings)
