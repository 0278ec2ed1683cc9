"""SAM 2 through the mask engine gives what its own generator gives: on a small random model, against frozen numbers, with real weights."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch.nn import functional as F

from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.masks.interpolation import make_frame
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.point_models.interface import point_model
from samdiff.pipeline.point_models.sam2 import pack
from samdiff.pipeline.point_models.sam2_build import SIZES
from samdiff.pipeline.sam.grid_decoder import GridDecoder
from samdiff.pipeline.sam.load import load_segmenter, load_state
from samdiff.pipeline.sam.weights import plan_weights

from ...helpers.tiny_sam2 import NEEDS, POINTS, decoder_without_package, image_maps, tiny_sam2
from ..sam.test_segmenters import sample

GOLDEN = Path(__file__).parents[2] / "golden" / "sam2_decoder.npz"
LOW = {"stability_score_thresh": 0.5, "box_nms_thresh": 1.0, "pred_iou_thresh": 0.5}
"""Thresholds at which a random model has masks; its boxes cover the image."""


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return tiny_sam2()


def stock(model, image, **settings):
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    return SAM2AutomaticMaskGenerator(model, output_mode="coco_rle", **settings).generate(image)


def assert_equal(ours: list[dict], theirs: list[dict], least: int, flips: int = 0) -> None:
    """Number, order, runs, boxes, points and crops are equal; predicted IoU and stability within 1e-4; `flips` pixels may differ."""
    assert len(ours) == len(theirs) >= least
    for a, b in zip(ours, theirs, strict=True):
        for key in ("point_coords", "crop_box", *(() if flips else ("segmentation", "bbox", "area"))):
            assert a[key] == b[key], key
        assert int((coco.decode(a["segmentation"]) != coco.decode(b["segmentation"])).sum()) <= flips
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=1)
        assert a["predicted_iou"] == pytest.approx(b["predicted_iou"], abs=1e-4)
        assert a["stability_score"] == pytest.approx(b["stability_score"], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"points_per_side": 3, **LOW}, 10),
        (
            {"points_per_side": 2, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.3}
            | {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.02, "stability_score_offset": 0.7, "mask_threshold": 7.2}
            | {"points_per_batch": 3, "box_nms_thresh": 0.99, "crop_nms_thresh": 0.9},
            3,
        ),
        ({"points_per_side": None, "point_grids": [np.array([[0.21, 0.3], [0.7, 0.613]])], **LOW}, 2),
    ],
    ids=["thresholds", "every parameter", "own grid"],
)
def test_equal_to_the_stock_generator(tiny, settings, least):
    image = sample("chelsea.png")[40:137, 60:190].copy()
    if "crop_n_layers" in settings:  # large enough for masks that do not touch the edges of their crop
        image = image.repeat(4, axis=0).repeat(4, axis=1)
    ours = MaskGenerator(tiny, **settings).generate(image)
    assert len({tuple(record["crop_box"]) for record in ours}) > ("crop_n_layers" in settings)
    # Borders of random masks are long: of 200,000 pixels one or two lie on the threshold, within the rounding of logits up to 20.
    assert_equal(ours, stock(tiny, image, **settings), least, flips=2 if "crop_n_layers" in settings else 0)


def test_defaults_are_those_of_the_stock_generator():
    """Every parameter of its signature is a setting with the same default, or refused by name."""
    module = pytest.importorskip("sam2.automatic_mask_generator", reason=NEEDS)
    signature = inspect.signature(module.SAM2AutomaticMaskGenerator.__init__).parameters
    known = vars(MaskConfig().resolved("sam2"))
    others = {"self", "model", "output_mode", "kwargs", "use_m2m", "multimask_output", "mask_threshold"}
    assert {name: known[name] for name in signature if name not in others} == {
        name: each.default for name, each in signature.items() if name not in others
    }
    assert (signature["use_m2m"].default, signature["multimask_output"].default) == (False, True)
    assert signature["mask_threshold"].default == 0


def test_sizes_are_those_of_the_package():
    """Against the YAML files of 2.1 and 2.0."""
    hiera = pytest.importorskip("sam2.modeling.backbones.hieradet", reason=NEEDS).Hiera
    yaml = pytest.importorskip("yaml")
    defaults = {name: each.default for name, each in inspect.signature(hiera.__init__).parameters.items()}
    names = {"width": "embed_dim", "heads": "num_heads", "stages": "stages", "global_blocks": "global_att_blocks"}
    names |= {"background": "window_pos_embed_bkg_spatial_size", "windows": "window_spec"}
    for version in ("2.1", "2"):
        for size, config in SIZES.items():
            path = Path(inspect.getfile(hiera)).parents[2] / Path("configs", f"sam{version}", f"sam{version}_hiera_{size}.yaml")
            encoder = yaml.safe_load(path.read_text())["model"]["image_encoder"]
            trunk = defaults | encoder["trunk"]
            for ours, theirs in names.items():
                expected = trunk[theirs]
                got = getattr(config, ours)
                assert got == (expected if isinstance(expected, int) else tuple(expected)), (path.name, ours)
            assert encoder["neck"]["backbone_channel_list"] == [
                8 * config.width,
                4 * config.width,
                2 * config.width,
                config.width,
            ]


def test_decoder_equals_the_golden_outputs():
    """Logits and predicted IoU of SAM 2's own decoder, frozen; its parts here are segment-anything's, so no package is needed."""
    model = decoder_without_package()
    with torch.inference_mode(), np.load(GOLDEN) as golden:
        coordinates, labels = torch.from_numpy(POINTS)[:, None], torch.ones(len(POINTS), 1, dtype=torch.int)
        prompts = model.prompt_encoder(points=(coordinates, labels), boxes=None, masks=None)[0]
        for batch in (1, 2):
            decoder = GridDecoder(model, pixel_batch=batch)
            decoded = decoder.points(decoder.image_side(pack(*image_maps())[0]), prompts)
            logits = decoder.all_logits(decoded, 64, 64)
            spread = golden["logits"].std()
            np.testing.assert_allclose(logits[:, :, ::8, ::8] / spread, golden["logits"] / spread, atol=2e-5)
            np.testing.assert_allclose(decoded.predicted_iou, golden["predicted_iou"], atol=1e-5)
            some = decoder.logits(decoded, [1, 2], [2, 0], rows=33, columns=64)
            np.testing.assert_allclose(some, logits[[1, 2], [2, 0], :132], atol=1e-4 * spread)


def test_golden_outputs_are_those_of_the_package():
    """SAM 2's own decoder with the same weights gives the frozen numbers."""
    pytest.importorskip("sam2.modeling.sam2_base", reason=NEEDS)
    logits, predicted_iou = golden_outputs()
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-4 * golden["logits"].std())
        np.testing.assert_allclose(predicted_iou, golden["predicted_iou"], atol=1e-5)


def golden_outputs() -> tuple[np.ndarray, np.ndarray]:
    """What `sam2_decoder.npz` holds: every eighth logit [3, 3, 32, 32] and predicted IoU [3, 3] of the package's decoder."""
    from types import SimpleNamespace

    from ...helpers.tiny_sam2 import fill

    model = tiny_sam2()
    fill(SimpleNamespace(mask_decoder=model.sam_mask_decoder, prompt_encoder=model.sam_prompt_encoder))
    embedding, finer, finest = image_maps()
    with torch.inference_mode():
        coordinates, labels = torch.from_numpy(POINTS)[:, None], torch.ones(len(POINTS), 1, dtype=torch.int)
        sparse, dense = model.sam_prompt_encoder(points=(coordinates, labels), boxes=None, masks=None)
        logits, predicted_iou, _, _ = model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=True,
            high_res_features=[finest, finer],
        )
    return logits[:, :, ::8, ::8].numpy(), predicted_iou.numpy()


@pytest.mark.parametrize("size", [(97, 130), (20, 700)])
def test_one_step_from_logits_to_the_image(size):
    """The matrices of the frame are PyTorch's one bilinear interpolation, enlarging and reducing."""
    logits = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    frame = make_frame(*size, n_low=256, n_model=None, device=torch.device("cpu"))
    got = frame.y.matrix @ logits[0, 0, : frame.y.n_low, : frame.x.n_low] @ frame.x.matrix.t()
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_pixels_are_those_of_the_predictor(tiny):
    module = pytest.importorskip("sam2.utils.transforms", reason=NEEDS)
    image = sample("chelsea.png")
    expected = module.SAM2Transforms(resolution=1024, mask_threshold=0.0)(image)[None]
    model = point_model(tiny)
    assert torch.equal(model.pixels(model.resized(image)), expected)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"use_m2m": True}, "use_m2m: a second pass .* not supported"),
        ({"multimask_output": False}, "multimask_output: one mask per point .* not supported"),
        ({"min_mask_region_area": 10}, "min_mask_region_area: not supported with SAM 2"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tiny, given, match):
    with pytest.raises(ConfigError, match=match):
        MaskGenerator(tiny, **given)
    MaskGenerator(tiny, points_per_side=1, use_m2m=False, multimask_output=True)


def test_what_it_says_of_itself(tiny):
    """The default threshold is SAM 2's; the package's version is recorded; `mask_threshold` appears where it is given."""
    facts = MaskGenerator(tiny, points_per_side=1).describe()
    assert (facts["pred_iou_thresh"], facts["name"]) == (0.8, "custom")
    assert facts["versions"]["rf-sam-2"] != "unknown"
    assert "mask_threshold" not in facts
    assert MaskGenerator(tiny, points_per_side=1, mask_threshold=0.5).describe()["mask_threshold"] == 0.5
    assert MaskConfig().as_attributes()["pred_iou_thresh"] == 0.88


def test_video_parts_are_dropped_by_name(tiny):
    """A whole checkpoint loads; an unknown tensor does not, nor does one that lacks a tensor."""
    from samdiff.pipeline.sam.checkpoint import image_part

    state = tiny.state_dict()
    video = {
        "memory_encoder.x": torch.zeros(1),
        "maskmem_tpos_enc": torch.zeros(1),
        "obj_ptr_proj.layers.0.bias": torch.zeros(1),
    }
    load_state(tiny, image_part(state | video), "x")
    with pytest.raises(WeightsError, match=r"1 tensors unexpected \(such as image_encoder.more\)"):
        load_state(tiny, image_part(state | {"image_encoder.more": torch.zeros(1)}), "x")
    with pytest.raises(WeightsError, match=r"1 tensors missing \(such as no_mem_embed\)"):
        load_state(tiny, {name: value for name, value in image_part(state).items() if name != "no_mem_embed"}, "x")


@pytest.mark.slow
def test_real_weights():
    """SAM 2.1 tiny: the masks of the stock generator. Skipped unless the file is in the cache (`samdiff weights sam2.1_t`)."""
    pytest.importorskip("sam2.modeling.sam2_base", reason=NEEDS)
    found, where = plan_weights("sam2.1_t", source="cache")
    if found is None:
        pytest.skip(f"no weights of sam2.1_t in the cache ({where}); `samdiff weights sam2.1_t` downloads them")
    segmenter = load_segmenter("sam2.1_t", torch.device("cpu"), source="cache")
    image = sample("chelsea.png")
    assert_equal(MaskGenerator(segmenter).generate(image), stock(segmenter.model, image), least=3)
