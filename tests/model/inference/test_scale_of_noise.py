"""Inference with a local scale of the noise: tiles, batches, kinds of images, a given scale, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import load_model
from samdiff.cli import main
from samdiff.errors import ConfigError, ImageError
from samdiff.model.evaluation.oracle import oracle_scale
from samdiff.model.export.onnx_export import export_onnx

from ...helpers.models import FLOW, write_model
from .test_tiles import smooth_image

NONE = "diffusion.modulation=none"
DDPM = (NONE, "diffusion.scale_from=masks")
SCALED_FLOW = (*FLOW, "diffusion.scale_from=masks", "diffusion.residual_scale=4")


def model_of(tmp_path, *sets):
    """A model whose scale head differs from place to place."""
    model = load_model(write_model(tmp_path / "m.safetensors", *sets), "cpu")
    generator = torch.Generator().manual_seed(0)
    if model.unet.scale_head is not None:
        torch.nn.init.normal_(model.unet.scale_head.up.weight, std=0.3, generator=generator)
    torch.nn.init.normal_(model.unet.out.weight, std=2.0 if "process=flow" in " ".join(sets) else 0.3, generator=generator)
    return model


@pytest.mark.parametrize("sets", [DDPM, SCALED_FLOW])
def test_tiles_batches_and_kinds_of_images(tmp_path, sets):
    model = model_of(tmp_path, *sets)
    image = smooth_image(64, 56)
    finished = []
    whole = model.upscale(image, steps=2, tile=0, seed=1)
    tiled = model.upscale(image, steps=2, tile=36, seed=1, on_progress=finished.append)
    assert finished[-1] == 1
    assert np.abs(tiled - whole).mean() <= 0.5 / 255
    for changes in ({"batch": 5}, {"cache_mb": 0}):
        np.testing.assert_allclose(model.upscale(image, steps=2, tile=36, seed=1, **changes), tiled, atol=1e-4)
    small = (image[:5, :7] * 255).astype(np.uint8)
    assert model.upscale(small[..., 0], steps=1).shape == (20, 28)
    assert model.upscale(small[:1, :1], steps=1).shape == (4, 4, 3)
    assert np.abs(model.upscale(image[:9, :7], steps=2, amp="bf16") - model.upscale(image[:9, :7], steps=2)).mean() < 0.05
    if sets is DDPM:
        near, far = (np.abs(model.upscale(small, start="rrdb", start_time=t) - model.regress(small)).mean() for t in (0, 90))
        assert near < far


@pytest.mark.parametrize("sets", [DDPM, SCALED_FLOW])
def test_a_given_scale_takes_the_place_of_the_estimate(tmp_path, sets):
    """The model's own estimate, given as an array, leads to the same image; another one to another image."""
    model = model_of(tmp_path, *sets)
    image = smooth_image(12, 16)
    lr = torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        own = model.unet.log_scale(torch.cat(model.rrdb.features(lr)[2::3], dim=1)).exp()[0, 0].numpy()
    plain = model.upscale(image, steps=2)
    np.testing.assert_allclose(model.upscale(image, steps=2, noise_scale=own), plain, atol=2e-4)
    assert np.abs(model.upscale(image, steps=2, noise_scale=2 * own) - plain).max() > 0.001
    with pytest.raises(ConfigError, match=r"noise_scale: expected finite positive numbers of shape \[48, 64\]"):
        model.upscale(image, steps=2, noise_scale=own[:4])


def test_the_oracle(tmp_path, capsys):
    """S of HR by its masks; `infer` refuses such a model, and the RRDB alone works."""
    model = model_of(tmp_path, NONE, "diffusion.scale_from=oracle")
    rng = np.random.default_rng(0)
    lr = (smooth_image(8, 12) * 255).astype(np.uint8)
    hr = rng.integers(0, 256, (32, 48, 3), np.uint8)
    labels = np.zeros((32, 48), np.uint16)
    labels[:, 20:] = 3
    scale = oracle_scale(model, lr, hr, labels)
    assert scale.shape == (32, 48)
    assert len(np.unique(scale[:, :20])) == len(np.unique(scale[:, 20:])) == 1
    assert model.upscale(lr, steps=2, noise_scale=scale).shape == hr.shape
    with pytest.raises(ConfigError, match="'oracle', a control for studies that needs HR and its masks"):
        model.upscale(lr, steps=2)
    with pytest.raises(ImageError, match="expected HR"):
        oracle_scale(model, lr, hr[:4], labels)
    Image.fromarray(lr).save(tmp_path / "lr.png")
    with pytest.raises(SystemExit):
        main(
            [
                "infer",
                str(tmp_path / "lr.png"),
                "--checkpoint",
                str(tmp_path / "m.safetensors"),
                "-o",
                str(tmp_path / "out.png"),
            ]
        )
    assert "a control for studies" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_what_is_refused(tmp_path):
    plain = model_of(tmp_path, NONE)
    with pytest.raises(ConfigError, match="was trained without diffusion.scale_from"):
        plain.upscale(smooth_image(8, 8), steps=1, noise_scale=np.ones((32, 32), np.float32))
    scaled = model_of(tmp_path, *DDPM)
    with pytest.raises(ConfigError, match="which these files cannot hold"):
        export_onnx(scaled, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
