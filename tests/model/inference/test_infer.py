"""Images out: any size and kind, the same for the same seed, honest files, clear errors. Metrics against the field's tables."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import load_model
from samdiff.errors import CheckpointError, ConfigError, ImageError
from samdiff.model.checkpoints.format import Checkpoint, save_checkpoint
from samdiff.model.checkpoints.publish import default_checkpoint
from samdiff.model.diffusion.residual import from_residual, to_model_range, to_pixels, to_residual, upsample
from samdiff.model.evaluation.metrics import luma, psnr, psnr_y, ssim, ssim_y
from samdiff.model.inference.image_io import open_image
from samdiff.model.inference.pixel_format import pad_lr
from samdiff.model.inference.upscaler import SuperResolver
from samdiff.model.sheets.contact_sheet import colour_map, contact_sheet
from samdiff.pipeline.degrade.imresize import imresize

from ...helpers.models import write_model

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture(scope="module")
def model(model_file) -> SuperResolver:
    return load_model(model_file, "cpu")


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 7, 4), (5, 3, 2), (17, 22, 3), (8, 8, 1)])
def test_any_size_and_kind(model, shape):
    """Four times the sides, one pixel included; grey stays grey, alpha stays alpha."""
    image = random_image(*shape)
    out = model.upscale(image, steps=2)
    assert out.dtype == np.uint8
    assert out.shape == (shape[0] * 4, shape[1] * 4, *shape[2:])
    if image.ndim == 3 and shape[2] in (2, 4):
        np.testing.assert_array_equal(out[..., -1], imresize(np.ascontiguousarray(image[..., -1]), 4))


def test_the_seed_decides(model):
    """Same seed, same pixels; another seed, others. Few steps and a named sampler work."""
    image = random_image(9, 12, 3)
    first = model.upscale(image, steps=5, seed=3)
    np.testing.assert_array_equal(first, model.upscale(image, steps=5, seed=3))
    assert (first != model.upscale(image, steps=5, seed=4)).any()
    assert model.upscale(image, steps=3, sampler="ddim").shape == (36, 48, 3)


def test_padding_does_not_touch_the_bicubic_part(model, monkeypatch):
    """With a residual of zero the result is MATLAB's bicubic of the image itself, to the border."""
    image = random_image(5, 7, 3)
    padded = pad_lr(image, 8, 4)
    assert padded.shape[0] * 4 % 8 == padded.shape[1] * 4 % 8 == 0
    assert min(padded.shape[:2]) * 4 >= 16
    monkeypatch.setattr("samdiff.model.diffusion.process.from_residual", lambda _, lr_up, rescale: lr_up)
    expected = imresize(image.astype(np.float64), 4)
    assert np.abs(model.upscale(image, steps=1) - expected.clip(0, 255)).max() <= 0.51
    tall = random_image(90, 5, 3)  # several bands of rows
    assert np.abs(model.upscale(tall, steps=1) - imresize(tall.astype(np.float64), 4).clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_upsample_equals_imresize_of_floats(scale):
    """On the device and in numpy, the same MATLAB bicubic."""
    image = np.random.default_rng(1).random((6, 9, 3))
    expected = imresize(image, scale)
    result = upsample(torch.from_numpy(image).permute(2, 0, 1)[None], scale)[0].permute(1, 2, 0)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


def test_ranges_go_there_and_back():
    """Pixels <-> [-1, 1]; residuals of close images are exact, of far ones clipped."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_pixels(to_model_range(pixels)), pixels)
    hr, up = torch.tensor([0.5, -1.0]).view(1, 1, 1, 2), torch.tensor([0.2, 1.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(from_residual(to_residual(hr, up), up), torch.tensor([0.5, 0.5]).view(1, 1, 1, 2))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
def test_other_numbers_give_the_same_picture(model, dtype):
    """The result of uint8 values held as 16 bits or as floats is the same image, in the same kind of numbers."""
    image = random_image(6, 5, 4)
    top = 65535 if dtype == np.uint16 else 1.0
    image[..., 3] //= 2  # the 8-bit upsampling clips overshoots between its passes
    image[..., 3] += 64
    other = model.upscale((image / 255 * top).round(0 if dtype == np.uint16 else 9).astype(dtype), steps=2)
    assert other.dtype == dtype
    difference = np.abs(other / top * 255 - model.upscale(image, steps=2))
    assert difference[..., :3].max() <= 0.51
    assert difference[..., 3].max() <= 1.51  # and rounds twice


def test_the_mean_of_samples_and_the_start_from_the_rrdb(model):
    """average=2 is the mean of two samples, the first of which is the plain one; at t = 0 the RRDB's image comes back."""
    image = random_image(6, 6, 3) // 4 + 96  # residuals in range, nothing clipped
    first, mean = (model.upscale(image / 255, steps=2, average=n) for n in (1, 2))
    second = 2 * mean - first
    assert np.abs(second - first).mean() > 0.01
    assert second.min() >= first.min() - 0.5
    dark = model.regress(image)[:6, :6]  # what the untrained RRDB makes of anything: no residual is clipped
    barely = model.upscale(dark, start="rrdb", start_time=0, steps=1).astype(int)
    assert np.abs(barely - model.regress(dark)).mean() < 4
    assert model.upscale(image, start="rrdb", steps=3, sampler="dpm2m").shape == (24, 24, 3)


def test_consistency_gives_back_the_input(model):
    """After back-projection the downsampled result equals the input to half a level, and flat colours stay, for any model."""
    image = random_image(20, 24, 3) // 4 + 96
    plain, put_right = (model.upscale(image, steps=2, consistent=c) for c in (False, True))
    assert psnr(imresize(plain, 0.25), image) < 40
    assert psnr(imresize(put_right, 0.25), image) > 50
    flat = np.full((12, 9, 3), (200, 30, 117), np.uint8)
    assert np.abs(model.upscale(flat, steps=2).astype(int) - (200, 30, 117)).max() > 1
    assert np.abs(model.upscale(flat, steps=2, consistent=True).astype(int) - (200, 30, 117)).max() <= 1


def test_pil_images_keep_their_mode(model):
    """PIL in, PIL out with its colour profile; a palette becomes RGB."""
    assert model.upscale(Image.new("LA", (3, 2)), steps=1).mode == "LA"
    assert model.upscale(Image.new("P", (3, 2)), steps=1).mode == "RGB"
    assert model.upscale(Image.new("RGBA", (3, 2)), steps=1).size == (12, 8)


def test_wrong_arrays_and_samplers(model):
    """Each error states what was expected."""
    for image in (np.zeros((4, 4, 3), np.int64), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match="expected an image"):
            model.upscale(image)
    for image in (np.full((4, 4), 2.0), np.full((4, 4), np.nan)):
        with pytest.raises(ImageError, match="expected floats of 0 to 1"):
            model.upscale(image)
    for arguments, match in (
        ({"steps": 0}, "expected 1 to 100"),
        ({"sampler": "heun"}, "expected one of ddpm"),
        ({"sampler": "euler"}, "only for models with diffusion.process 'flow', this one has 'ddpm'"),
        ({"quality": "good"}, "quality: expected one of fast, balanced, best"),
        ({"sampler": "paper"}, "'paper' with mod"),
        ({"tile": 3}, "tile: expected 0 .none. or at least 33 pixels"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"start": "bicubic"}, "start: expected one of noise, rrdb"),
        ({"start": "rrdb", "start_time": 100}, "expected a time step of 0 to 99, got 100"),
        ({"start": "rrdb", "steps": 60}, "expected 1 to 51"),
        ({"strength": 3}, "unknown setting strength"),
    ):
        with pytest.raises(ConfigError, match=match):
            model.upscale(random_image(4, 4, 3), **arguments)


def test_no_checkpoint_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match="train one with `samdiff train STORE`, or give --checkpoint"):
        default_checkpoint(tmp_path / "runs", tmp_path / "no.safetensors")
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_model(tmp_path / "none.safetensors", "cpu")


def test_a_checkpoint_with_other_weights_or_keys_is_refused(model_file, tmp_path):
    """NaN weights; a configuration of another release."""
    from samdiff.model.checkpoints.format import load_checkpoint

    good = load_checkpoint(model_file)
    bad = Checkpoint("diffusion", {**good.tensors, "unet.out.bias": torch.full((3,), float("nan"))}, good.config)
    save_checkpoint(tmp_path / "nan.safetensors", bad)
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity \(such as out.bias\)"):
        load_model(tmp_path / "nan.safetensors", "cpu")
    save_checkpoint(tmp_path / "new.safetensors", Checkpoint("diffusion", good.tensors, {**good.config, "future": 1}))
    with pytest.raises(CheckpointError, match="unknown setting future"):
        load_model(tmp_path / "new.safetensors", "cpu")


def test_psnr_and_ssim_by_their_definitions():
    """Against a direct formula; equal images; SSIM against scikit-image's implementation."""
    metrics = pytest.importorskip("skimage.metrics")
    a, b = random_image(40, 50, 3), random_image(3, 50, 40).transpose(2, 1, 0)
    mse = np.mean((a.astype(float) - b) ** 2)
    assert psnr(a, b) == pytest.approx(10 * np.log10(65025 / mse))
    assert psnr(a, a) == float("inf")
    x, y = luma(a), luma(np.clip(a.astype(int) + 9, 0, 255).astype(np.uint8))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    _, full = metrics.structural_similarity(x, y, truncate=10 / 3, **options)
    assert ssim(x, y) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)
    assert luma(np.full((1, 1, 3), 255, np.uint8)) == pytest.approx(235)
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, b[1:])


@pytest.mark.skipif(not SHARED.exists(), reason="the benchmark images are not part of the project")
@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("set5", 2, (33.673, 0.9303)),
        ("set5", 4, (28.429, 0.8111)),
        ("set14", 2, (30.230, 0.8691)),
        ("set14", 4, (25.994, 0.7029)),
    ],
)
def test_bicubic_rows_of_the_field(name, scale, expected):
    """Mean PSNR and SSIM on Y of bicubic upsampling, shave = scale, to .005 dB; grey files on their grey values."""
    scores = []
    for path in sorted((SHARED / name / "HR").glob("*.png")):
        (lr_path,) = [p for p in (SHARED / name / f"LRx{scale}").iterdir() if p.stem.startswith(path.stem)]
        hr, lr = open_image(path), open_image(lr_path)
        lr = lr if lr.ndim == hr.ndim else lr[..., 0]
        hr = hr[: lr.shape[0] * scale, : lr.shape[1] * scale]
        enlarged = imresize(np.ascontiguousarray(lr), scale)
        scores.append((psnr_y(enlarged, hr, scale), ssim_y(enlarged, hr, scale)))
    result = np.mean(scores, axis=0)
    assert result[0] == pytest.approx(expected[0], abs=0.005)
    assert result[1] == pytest.approx(expected[1], abs=0.0005)


def test_contact_sheets_hold_every_panel():
    """Panels in order; a map's extremes get the colour map's ends."""
    red, blue = (np.full((10, 20, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    sheet = contact_sheet([("red", red), ("blue\ntwo lines", blue), ("grey", red[..., 0])], columns=2, width=40)
    assert sheet.shape[1] == 2 * 56
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == (sheet == (0, 0, 255)).all(axis=2).sum() == 40 * 20
    ends = colour_map(np.array([[0.0, 1.0]]))
    assert ends[0, 0].sum() < ends[0, 1].sum()
    assert (colour_map(np.zeros((2, 2))) == colour_map(np.zeros((2, 2)))[0, 0]).all()


def test_model_needs_no_segmenter(model_file):
    """Inference imports neither segment-anything nor the mask stage."""
    import subprocess
    import sys

    code = f"import sys, numpy as np, samdiff; samdiff.load_model({str(model_file)!r}, 'cpu').upscale(np.zeros((4, 4, 3), np.uint8), steps=1);"
    code += "sys.exit(any(name.startswith(('segment_anything', 'samdiff.pipeline.masks.generator', 'samdiff.pipeline.sam.load')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("segment_anything") is not None
