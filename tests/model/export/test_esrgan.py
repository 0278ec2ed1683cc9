"""The RRDB with ESRGAN's names: spandrel loads it, and its pixels are ours."""

import numpy as np
import pytest
import torch

from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.export.esrgan import export_esrgan
from samdiff.model.inference.upscaler import load_model

from ...helpers.models import write_model, write_student

SPANDREL = "spandrel is not installed; pip install 'samdiff[test]'"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_spandrel_gives_our_pixels(tmp_path, suffix):
    spandrel = pytest.importorskip("spandrel", reason=SPANDREL)
    source = write_model(tmp_path / "m.safetensors")
    file = export_esrgan(load_checkpoint(source), "m", tmp_path / f"esrgan{suffix}")
    theirs = spandrel.ModelLoader(device="cpu").load_from_file(file)
    assert (theirs.architecture.id, theirs.scale, theirs.input_channels) == ("ESRGAN", 4, 3)
    lr = np.random.default_rng(0).integers(0, 256, (13, 18, 3), np.uint8)
    unit = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        found = (theirs.model.eval()(unit)[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()
    ours = load_model(source, "cpu").upscale(lr, rrdb_only=True, tile=0)
    assert np.abs(found - ours.astype(float)).max() <= 1  # rounding


def test_names_are_those_of_esrgan(tmp_path):
    from safetensors import safe_open

    file = export_esrgan(load_checkpoint(write_model(tmp_path / "m.safetensors")), "m", tmp_path / "out")
    assert file.name == "rrdb-x4.safetensors"
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
    assert {
        "conv_first.weight",
        "RRDB_trunk.1.RDB3.conv5.bias",
        "trunk_conv.weight",
        "upconv2.weight",
        "HRconv.bias",
        "conv_last.bias",
    } <= names


def test_what_has_no_rrdb_or_another_layout(tmp_path):
    with pytest.raises(CheckpointError, match="has no rrdb"):
        export_esrgan(load_checkpoint(write_student(tmp_path / "s.safetensors")), "s", tmp_path)
    with pytest.raises(CheckpointError, match="ESRGAN's layout has 2, 4, 8"):
        export_esrgan(load_checkpoint(write_model(tmp_path / "x3.safetensors", scale=3)), "x3", tmp_path)
    with pytest.raises(ConfigError, match="expected a folder or a file ending in"):
        export_esrgan(load_checkpoint(write_model(tmp_path / "m.safetensors")), "m", tmp_path / "a.onnx")
