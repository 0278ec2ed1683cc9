"""Pictures out: any size and kind, the same for the same seed, honest files, clear errors. Metrics against the field's tables."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import load_model
from samdiff.errors import CheckpointError, ConfigError, ImageError
from samdiff.model.checkpoint import Checkpoint, newest_run, save_checkpoint
from samdiff.model.config import load_config
from samdiff.model.infer import SuperResolver, pad_lr, split_nature
from samdiff.model.metrics import luma, psnr, psnr_y, ssim, ssim_y
from samdiff.model.networks import build_rrdb, build_unet
from samdiff.model.pictures import open_picture, plan_outputs, save_picture, upscale_files
from samdiff.model.residual import from_residual, to_picture_range, to_pixels, to_residual, upsample
from samdiff.model.sheet import colour_labels, colour_map, contact_sheet
from samdiff.pipeline.resize import imresize

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """An untrained tiny model, saved as training saves it."""
    torch.manual_seed(0)
    sets = [
        "model.width=8",
        "model.multipliers=[1, 2, 2]",
        "model.rrdb_blocks=2",
        "model.rrdb_features=8",
        "model.rrdb_growth=4",
    ]
    config = load_config("tiny", sets=sets)
    parts = {"rrdb": build_rrdb(config), "unet": build_unet(config)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_checkpoint(path, Checkpoint("diffusion", tensors, {**config.as_dict(), "stores": [], "rrdb_from": None}))
    return path


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
    grey = image.ndim == 2 or shape[2] == 1
    assert out.dtype == np.uint8
    assert out.shape == ((shape[0] * 4, shape[1] * 4) if grey else (shape[0] * 4, shape[1] * 4, shape[2]))
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
    """With a residual of zero the result is MATLAB's bicubic of the picture itself, to the border."""
    image = random_image(5, 7, 3)
    padded = pad_lr(image, 8, 4)
    assert padded.shape[0] * 4 % 8 == padded.shape[1] * 4 % 8 == 0
    assert min(padded.shape[:2]) * 4 >= 16
    monkeypatch.setattr("samdiff.model.infer.from_residual", lambda _, lr_up: lr_up)
    expected = imresize(image.astype(np.float64), 4)
    assert np.abs(model.upscale(image, steps=1) - expected.clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_upsample_equals_imresize_of_floats(scale):
    """On the device and in numpy, the same MATLAB bicubic."""
    image = np.random.default_rng(1).random((6, 9, 3))
    expected = imresize(image, scale)
    found = upsample(torch.from_numpy(image).permute(2, 0, 1)[None], scale)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_ranges_go_there_and_back():
    """Pixels <-> [-1, 1]; residuals of close pictures are exact, of far ones clipped."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_pixels(to_picture_range(pixels)), pixels)
    hr, up = torch.tensor([0.5, -1.0]).view(1, 1, 1, 2), torch.tensor([0.2, 1.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(from_residual(to_residual(hr, up), up), torch.tensor([0.5, 0.5]).view(1, 1, 1, 2))


def test_pil_pictures_keep_their_mode(model):
    """PIL in, PIL out; a palette becomes RGB."""
    assert model.upscale(Image.new("LA", (3, 2)), steps=1).mode == "LA"
    assert model.upscale(Image.new("P", (3, 2)), steps=1).mode == "RGB"
    assert model.upscale(Image.new("RGBA", (3, 2)), steps=1).size == (12, 8)


def test_wrong_arrays_and_samplers(model):
    """Each says what was expected."""
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match="expected a uint8 picture"):
            model.upscale(image)
    for arguments, match in (
        ({"steps": 0}, "expected 1 to 100"),
        ({"sampler": "euler"}, "expected one of ddpm"),
        ({"sampler": "paper"}, "'paper' with mod"),
    ):
        with pytest.raises(ConfigError, match=match):
            model.upscale(random_image(4, 4, 3), **arguments)


def test_files_keep_their_nature(model, tmp_path):
    """Grey, RGBA and 16-bit PNGs on the disk; EXIF orientation is applied; JPEG refuses alpha."""
    for name, image in (("g.png", random_image(5, 6)), ("a.png", random_image(5, 6, 4)), ("c.webp", random_image(5, 6, 3))):
        Image.fromarray(image).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        np.testing.assert_array_equal(open_picture(tmp_path / name), image)
    cv2.imwrite(str(tmp_path / "w.png"), np.array([[0, 257 * 7, 65535]], np.uint16))
    assert open_picture(tmp_path / "w.png").tolist() == [[0, 7, 255]]
    turned = Image.fromarray(random_image(5, 6, 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "t.png", exif=exif)
    assert open_picture(tmp_path / "t.png").shape == (6, 5, 3)
    jobs = plan_outputs([tmp_path / "g.png", tmp_path / "a.png"], tmp_path / "out", 4, overwrite=False)
    said: list[str] = []
    options = {"scale": 4, "steps": 1, "seed": 0, "sampler": None, "regress": False, "say": said.append}
    assert upscale_files(model, jobs, **options) == {}
    assert [open_picture(target).shape for _, target in jobs] == [(20, 24), (20, 24, 4)]
    assert len(said) == 2
    with pytest.raises(ImageError, match="JPEG cannot hold"):
        save_picture(random_image(4, 4, 4), tmp_path / "x.jpg")


def test_one_bad_file_does_not_stop_the_rest(model, tmp_path):
    """Several inputs: the bad ones are listed; a single bad one is an error."""
    save_picture(random_image(4, 4, 3), tmp_path / "good.png")
    (tmp_path / "text.png").write_text("hello")
    good = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "zero.png").write_bytes(b"")
    inputs = [tmp_path / name for name in ("text.png", "good.png", "cut.png", "zero.png", "none.png")]
    options = {"scale": None, "steps": 1, "seed": 0, "sampler": None, "regress": True, "say": lambda _: None}
    failed = upscale_files(model, plan_outputs(inputs, tmp_path / "o", 4, overwrite=False), **options)
    assert sorted(Path(name).name for name in failed) == ["cut.png", "none.png", "text.png", "zero.png"]
    assert (tmp_path / "o" / "good_x4.png").exists()
    with pytest.raises(ImageError, match="not a picture in a known format"):
        upscale_files(model, plan_outputs([tmp_path / "text.png"], None, 4, overwrite=False), **options)
    with pytest.raises(CheckpointError, match="trained for x4, x2 was asked for"):
        upscale_files(model, [], **{**options, "scale": 2})


def test_outputs_are_planned_before_anything_is_computed(tmp_path):
    """Two inputs of one name, an existing output, a file for several, an unknown format."""
    a, b = tmp_path / "a.png", tmp_path / "sub" / "a.png"
    assert plan_outputs([a], None, 4, False) == [(a, tmp_path / "a_x4.png")]
    assert plan_outputs([a], tmp_path / "o.webp", 4, False) == [(a, tmp_path / "o.webp")]
    with pytest.raises(ConfigError, match="would both become"):
        plan_outputs([a, b], tmp_path / "o", 4, False)
    with pytest.raises(ConfigError, match="cannot go to one file"):
        plan_outputs([a, b], tmp_path / "o.png", 4, False)
    with pytest.raises(ConfigError, match="expected a folder or a file ending in"):
        plan_outputs([a], tmp_path / "o.gif", 4, False)
    (tmp_path / "a_x4.png").touch()
    with pytest.raises(ConfigError, match="exists already; give --overwrite"):
        plan_outputs([a], None, 4, False)
    assert plan_outputs([a], None, 4, True)


def test_no_checkpoint_says_how_to_get_one(tmp_path):
    with pytest.raises(CheckpointError, match="train one with `samdiff train --shards STORE`, or give --checkpoint"):
        newest_run(tmp_path / "runs")
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        load_model(tmp_path / "none.safetensors", "cpu")


def test_a_checkpoint_with_other_weights_or_keys_is_refused(model_file, tmp_path):
    """NaN weights; a configuration that this release does not know."""
    from samdiff.model.checkpoint import load_checkpoint

    good = load_checkpoint(model_file)
    bad = Checkpoint("diffusion", {**good.tensors, "unet.out.bias": torch.full((3,), float("nan"))}, good.config)
    save_checkpoint(tmp_path / "nan.safetensors", bad)
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity \(such as out.bias\)"):
        load_model(tmp_path / "nan.safetensors", "cpu")
    save_checkpoint(tmp_path / "new.safetensors", Checkpoint("diffusion", good.tensors, {**good.config, "future": 1}))
    with pytest.raises(CheckpointError, match="unknown setting future"):
        load_model(tmp_path / "new.safetensors", "cpu")


def test_psnr_and_ssim_by_their_definitions():
    """Against a direct formula; equal pictures; SSIM against scikit-image's implementation."""
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


@pytest.mark.skipif(not SHARED.exists(), reason="the benchmark photographs are not part of the project")
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
    """Mean PSNR and SSIM on Y of bicubic enlargement, shave = scale, to .005 dB; grey files on their grey values."""
    scores = []
    for path in sorted((SHARED / name / "HR").glob("*.png")):
        (lr_path,) = [p for p in (SHARED / name / f"LRx{scale}").iterdir() if p.stem.startswith(path.stem)]
        hr, lr = open_picture(path), open_picture(lr_path)
        lr = lr if lr.ndim == hr.ndim else lr[..., 0]
        hr = hr[: lr.shape[0] * scale, : lr.shape[1] * scale]
        enlarged = imresize(np.ascontiguousarray(lr), scale)
        scores.append((psnr_y(enlarged, hr, scale), ssim_y(enlarged, hr, scale)))
    found = np.mean(scores, axis=0)
    assert found[0] == pytest.approx(expected[0], abs=0.005)
    assert found[1] == pytest.approx(expected[1], abs=0.0005)


def test_contact_sheets_hold_every_panel():
    """Panels in order; labels colour only what they cover; a map's extremes get the colour map's ends."""
    red, blue = (np.full((10, 20, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    sheet = contact_sheet([("red", red), ("blue\ntwo lines", blue), ("grey", red[..., 0])], columns=2, width=40)
    assert sheet.shape[1] == 2 * 56
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == (sheet == (0, 0, 255)).all(axis=2).sum() == 40 * 20
    labels = np.zeros((10, 20), np.uint16)
    labels[:5] = 3
    painted = colour_labels(labels, red)
    assert (painted[5:] == red[5:]).all()
    assert (painted[:5] != red[:5]).any(axis=2).all()
    ends = colour_map(np.array([[0.0, 1.0]]))
    assert ends[0, 0].sum() < ends[0, 1].sum()
    assert (colour_map(np.zeros((2, 2))) == colour_map(np.zeros((2, 2)))[0, 0]).all()


def test_split_nature_of_all_bands():
    assert [split_nature(random_image(2, 2, bands))[2] for bands in (1, 2, 3, 4)] == [True, True, False, False]


def test_model_needs_no_segmenter(model_file):
    """Inference imports neither segment-anything nor the mask stage."""
    import subprocess
    import sys

    code = f"import sys, numpy as np, samdiff; samdiff.load_model({str(model_file)!r}, 'cpu').upscale(np.zeros((4, 4, 3), np.uint8), steps=1);"
    code += "sys.exit(any(name.startswith(('segment_anything', 'samdiff.pipeline.masks', 'samdiff.pipeline.sam')) for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("segment_anything") is not None
