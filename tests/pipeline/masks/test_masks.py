"""The mask engine finds segment-anything's masks: on golden photographs, and against the stock generator run here."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch.nn import functional as F

from samdiff.cli import main
from samdiff.errors import ConfigError, ImageError, WeightsError
from samdiff.pipeline.encode.rle import encode
from samdiff.pipeline.masks.engine import MaskEngine
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.interpolation import make_frame
from samdiff.pipeline.masks.measure import Thresholds, bound, measure, runs
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.sam.grid_decoder import GridDecoder
from samdiff.pipeline.sam.load import build_segmenter
from samdiff.pipeline.shards.reader import open_store
from samdiff.runtime import setup_process

from ...helpers.same_masks import assert_same_masks
from ..sam.test_segmenters import sample

GOLDEN = Path(__file__).parents[2] / "golden"
CUT = Thresholds(0.0, 1.0)


@pytest.fixture(autouse=True, scope="module")
def allocator():
    """As the command line has it: the stock decoder, too, is twice as fast."""
    setup_process()


def stock(model, image, **settings):
    return SamAutomaticMaskGenerator(model, output_mode="coco_rle", **settings).generate(image)


@pytest.mark.weights
@pytest.mark.parametrize(
    "settings",
    [
        {"points_per_side": 5},
        {"points_per_side": 4, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 400}
        | {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.9, "stability_score_offset": 0.7, "points_per_batch": 13}
        | {"box_nms_thresh": 0.6, "crop_nms_thresh": 0.5, "crop_overlap_ratio": 0.3},
    ],
)
def test_equal_to_the_stock_generator(mobile_sam, settings):
    """Defaults, then every parameter changed; a portrait and a landscape, with points of their own grid."""
    image = sample("coffee.png")[:, :360] if "crop_n_layers" in settings else sample("chelsea.png")
    expected = stock(mobile_sam.model, image, **settings)
    assert len(expected) >= 2
    assert_same_masks(MaskGenerator(mobile_sam, **settings).generate(image), expected)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("amg_*.json")), ids=lambda path: path.stem)
def test_golden_photographs(mobile_sam, path):
    """All masks of the four photographs with 32 x 32 points; `SAMDIFF_PHOTOS` names the folder of the one we may not ship."""
    golden = json.loads(path.read_text())
    if "skimage" in path.stem:
        image = sample(golden["image"])
    elif folder := os.environ.get("SAMDIFF_PHOTOS"):
        image = cv2.imread(str(next(Path(folder).rglob(golden["image"]))))[..., ::-1].copy()
    else:
        pytest.skip(f"SAMDIFF_PHOTOS: expected a folder with {golden['image']}")
    assert list(image.shape[:2]) == golden["size"]
    assert_same_masks(MaskGenerator(mobile_sam).generate(image), golden["masks"])


@pytest.mark.weights
@pytest.mark.parametrize("name", ["mobile_sam", "vit_b"])
def test_decoder_equals_the_stock_decoder(mobile_sam, name):
    """Logits within 1e-4 and predicted IoU within 1e-5: real weights, and vit_b's decoder with random ones."""
    torch.manual_seed(0)
    model = mobile_sam.model if name == "mobile_sam" else build_segmenter(name)
    engine = MaskEngine(mobile_sam.model, MaskConfig(points_per_side=1))
    embedding = engine.encode([sample("chelsea.png")])
    points = (torch.rand(5, 1, 2) * 1024, torch.ones(5, 1, dtype=torch.int))
    with torch.inference_mode():
        sparse, dense = model.prompt_encoder(points=points, boxes=None, masks=None)
        position = model.prompt_encoder.get_dense_pe()
        expected, iou = model.mask_decoder(
            image_embeddings=embedding,
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        for batch in (1, 3):
            decoder = GridDecoder(model, pixel_batch=batch)
            decoded = decoder.points(decoder.image_side(embedding[0]), sparse)
            got = decoder.logits(decoded, [0, 0, 2, 4, 4, 4], [0, 2, 1, 0, 1, 2], 64, 43)
            torch.testing.assert_close(decoded.predicted_iou, iou, atol=1e-5, rtol=0)
            torch.testing.assert_close(got, expected[[0, 0, 2, 4, 4, 4], [0, 2, 1, 0, 1, 2], :, :172], atol=1e-4, rtol=0)


def by_interpolation(logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """What segment-anything does: 256 -> 1024, without the padding, -> the image."""
    scale = 1024 / max(height, width)
    rows, columns = int(height * scale + 0.5), int(width * scale + 0.5)
    large = F.interpolate(logits[:, None], (1024, 1024), mode="bilinear", align_corners=False)[..., :rows, :columns]
    return F.interpolate(large, (height, width), mode="bilinear", align_corners=False)[:, 0]


@pytest.mark.parametrize("size", [(1360, 2048), (300, 451), (97, 64), (700, 20)])
def test_cells_give_what_full_resolution_gives(size):
    """Areas, stability, boxes and runs of smooth random logits, of an empty mask and of a full one; bounds hold."""
    random = torch.Generator().manual_seed(sum(size))
    logits = F.interpolate(torch.randn(6, 1, 9, 9, generator=random), (256, 256), mode="bicubic")[:, 0] * 4 - 1
    logits[4], logits[5] = -5, 5
    frame = make_frame(*size, n_low=256, n_model=1024, device=torch.device("cpu"))
    full = by_interpolation(logits, *size).numpy()
    few = logits[:, : frame.y.n_low, : frame.x.n_low].contiguous()
    bounds = bound(few, frame, CUT)
    found = measure(few, bounds, n_cells=int(bounds.straddling.sum()), frame=frame, cut=CUT)
    assert np.abs(found.above.numpy() - (full > 1).sum((1, 2))).max() <= 1  # rounding may move a pixel on the threshold
    assert np.abs(found.below.numpy() - (full > -1).sum((1, 2))).max() <= 1
    assert bool((bounds.stability >= found.stability.nan_to_num(nan=0)).all())
    for k in range(6):
        mask = full[k] > 0
        y, x = np.nonzero(mask)
        expected = [int(x.min()), int(y.min()), int(x.max()), int(y.max())] if len(x) else [0, 0, 0, 0]
        assert found.box[k].tolist() == expected
        np.testing.assert_array_equal(runs([(few[k], expected)], frame, CUT, corner=(0, 0), size=size)[0], encode(mask))


@pytest.mark.weights
def test_batches_and_odd_pictures(mobile_sam):
    """Images of several sizes in order; one pixel, a line and one colour are images like any other."""
    generator = MaskGenerator(mobile_sam, points_per_side=3)
    cat = sample("chelsea.png")
    pictures = [cat, np.zeros((1, 1, 3), np.uint8), np.full((40, 60, 3), 127, np.uint8), cat[:200, :300].copy(), cat[:1]]
    tables = list(generator.generate_batch(pictures))
    assert [(table.height, table.width) for table in tables] == [picture.shape[:2] for picture in pictures]
    alone = generator.generate(cat)
    assert len(alone) > 0
    assert tables[0].records() == alone
    assert next(generator.generate_batch([cat])).records() == alone


@pytest.mark.weights
def test_bad_input_is_refused(mobile_sam):
    """Not an image, NaN weights in a model of one's own, settings that contradict."""
    with pytest.raises(ImageError, match=r"expected an image uint8 \[H, W, 3\].*got float32"):
        MaskGenerator(mobile_sam).generate(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ConfigError, match="mode: expected one of exact, fast"):
        MaskGenerator(mobile_sam, mode="quick")
    with pytest.raises(ConfigError, match="points_per_side, point_grids"):
        MaskGenerator(mobile_sam, points_per_side=None)
    broken = build_segmenter("mobile_sam")
    broken.load_state_dict(mobile_sam.model.state_dict())
    broken.mask_decoder.iou_token.weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="mask decoder.*NaN"):
        MaskGenerator(broken, points_per_side=1).generate(sample("chelsea.png"))
    broken.image_encoder.neck[0].weight[0, 0] = torch.nan
    with pytest.raises(WeightsError, match="image embedding.*NaN"):
        MaskGenerator(broken, points_per_side=1).generate(sample("chelsea.png"))


def test_a_store_goes_on_with_fewer_points_per_batch():
    """The advice for a device without memory must not make a begun store another one."""
    assert MaskConfig(points_per_batch=1).as_attributes() == MaskConfig().as_attributes()
    assert MaskConfig(points_per_side=1).as_attributes() != MaskConfig().as_attributes()


@pytest.mark.weights
def test_command_draws_and_exports(mobile_sam, tmp_path, capsys):
    """`samdiff masks` writes the drawing, and records that `prepare --import-masks` makes a store of."""
    picture, drawing, records = tmp_path / "chelsea.png", tmp_path / "drawing.png", tmp_path / "masks" / "chelsea.json"
    records.parent.mkdir()
    cv2.imwrite(str(picture), sample("chelsea.png")[..., ::-1])
    more = ["--points-per-side", "3", "--weights-source", "npm", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        main(["masks", str(picture), "-o", str(drawing), "--records", str(records), *more])
    found = json.loads(records.read_text())
    assert found == MaskGenerator(mobile_sam, points_per_side=3).generate(sample("chelsea.png"))
    assert f"{len(found)} masks" in capsys.readouterr().out
    assert cv2.imread(str(drawing)).shape[1] > 3 * 600
    store = tmp_path / "out.zarr"
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", str(picture), "--out", str(store), "--tile", "64", "--import-masks", str(records.parent)])
    opened = open_store(store)
    assert opened.n_masks == len(found)
    assert opened.attrs["segmenter"]["name"] == "imported"
