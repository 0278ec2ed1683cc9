"""`hf:MODEL_ID` with a random tiny SAM made here; nothing is fetched."""

import hashlib

import numpy as np
import pytest
import torch

from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline.encode.rle import decode
from samdiff.pipeline.masks.settings import MaskConfig
from samdiff.pipeline.segmenters.by_name import make_segmenter, plan_segmenter

from ..sam.test_segmenters import sample

CPU = torch.device("cpu")
NEEDS = "needs the package of the extra hf: pip install 'samdiff[hf]'"
LOW = MaskConfig(points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SAM of a few thousand parameters, saved as transformers saves it."""
    pytest.importorskip("transformers", reason=NEEDS)
    from transformers import SamConfig, SamImageProcessor, SamModel

    path = tmp_path_factory.mktemp("hf") / "tiny-sam"
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 16, "image_size": 64}
    vision |= {"patch_size": 16, "num_pos_feats": 8, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [0]}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4, "image_embedding_size": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    model.save_pretrained(path)
    size = {"longest_edge": 64}
    mask_size = {"longest_edge": 16}
    pads = {"pad_size": {"height": 64, "width": 64}, "mask_pad_size": {"height": 16, "width": 16}}
    SamImageProcessor(size=size, mask_size=mask_size, **pads).save_pretrained(path)
    return path


def test_masks_are_those_of_the_pipeline(folder):
    """Runs and predicted IoU of transformers' own pipeline; points and stability, which it does not return, are NaN."""
    from PIL import Image
    from transformers import pipeline

    image = sample("chelsea.png")[:60, :90].copy()
    table = next(make_segmenter(f"hf:{folder}", CPU, settings=LOW).generate_batch([image]))
    own = pipeline("mask-generation", model=str(folder), device=CPU)
    arguments = {"points_per_crop": 2, "pred_iou_thresh": 0, "stability_score_thresh": 0, "crops_nms_thresh": 1.0}
    expected = own(Image.fromarray(image), **arguments)
    assert len(table) == len(expected["masks"]) > 0
    for counts, mask in zip(table.counts, expected["masks"], strict=True):
        np.testing.assert_array_equal(decode(counts, 60, 90), np.asarray(mask))
    np.testing.assert_allclose(table.predicted_iou, expected["scores"].numpy(), atol=1e-6)
    assert np.isnan(table.point).all()
    assert np.isnan(table.stability).all()


def test_an_image_without_masks(folder):
    settings = MaskConfig(points_per_side=1, pred_iou_thresh=1.0)
    assert (
        len(next(make_segmenter(f"hf:{folder}", CPU, settings=settings).generate_batch([np.zeros((9, 11, 3), np.uint8)]))) == 0
    )


def test_what_it_says_of_itself(folder):
    """The folder's name without its place, hashes of what decides the masks; the same before it is loaded."""
    facts = make_segmenter(f"hf:{folder}", CPU, settings=LOW).describe()
    planned, where = plan_segmenter(f"hf:{folder}", CPU, settings=LOW)
    assert facts == planned
    assert str(folder) in where
    assert str(folder) not in str(facts)
    assert (facts["name"], facts["weights"]["source"], facts["points_per_side"]) == ("hf:tiny-sam", "folder", 2)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert facts["weights"]["files"]["model.safetensors"] == digest
    assert "transformers" in facts["versions"]
    assert (
        MaskConfig().resolved("sam").pred_iou_thresh
        == plan_segmenter(f"hf:{folder}", CPU, settings=MaskConfig())[0]["pred_iou_thresh"]
    )


def test_settings_that_the_pipeline_lacks(folder, tmp_path):
    for settings, name in ((MaskConfig(mode="fast"), "mode"), (MaskConfig(min_mask_region_area=5), "min_mask_region_area")):
        with pytest.raises(ConfigError, match=f"does not support {name}"):
            make_segmenter(f"hf:{folder}", CPU, settings=settings)
    with pytest.raises(ConfigError, match="--sam-weights: hf:.* has its weights in the model's folder"):
        make_segmenter(f"hf:{folder}", CPU, weights=tmp_path / "x.pt", settings=LOW)


def test_folders_that_are_no_model(folder, tmp_path, monkeypatch):
    """An empty one, one of another task, and a name that is neither a folder nor on the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="has no config.json"):
        make_segmenter(f"hf:{tmp_path / 'empty'}", CPU, settings=LOW)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="hf:other: not a model for the task mask-generation, or damaged"):
        make_segmenter(f"hf:{tmp_path / 'other'}", CPU, settings=LOW)
    with pytest.raises(WeightsError, match="neither a folder nor a model that can be downloaded"):
        make_segmenter(f"hf:{tmp_path / 'none'}", CPU, settings=LOW)
    assert plan_segmenter(f"hf:{tmp_path / 'none'}", CPU, settings=LOW)[0]["weights"] is None
