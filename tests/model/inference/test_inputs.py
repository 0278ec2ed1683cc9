"""Whatever stands for an image is taken, and the same kind comes back: paths, PIL images, arrays, tensors, batches; a model from Python."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import samdiff
from samdiff.errors import CheckpointError, ConfigError, ImageError, printable
from samdiff.model.inference.image_io import open_image, save_image

from ...helpers.models import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> samdiff.SuperResolver:
    return samdiff.load_model(write_model(tmp_path_factory.mktemp("run") / "model.safetensors"), "cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(model, image) -> np.ndarray:
    return model.upscale(image, steps=2, seed=3)


def test_paths(model, image, expected, tmp_path):
    """A file gives a PIL image, upright, with its profile and EXIF; 16 bits become 8."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray(np.rot90(image)).save(tmp_path / "a.png", icc_profile=profile, exif=exif)
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        large = model.upscale(path, steps=2, seed=3)
        np.testing.assert_array_equal(np.asarray(large), expected)
        assert large.info["icc_profile"] == profile
        assert large.getexif()[0x010F] == "maker"
        assert 0x0112 not in large.getexif()  # upright
    Image.fromarray(np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)).save(tmp_path / "grey.png")
    assert model.upscale(tmp_path / "grey.png", regress=True).mode == "L"
    with pytest.raises(ImageError, match="b.png: there is no such file"):
        model.upscale(tmp_path / "b.png")


def test_pil_and_calling(model, image, expected):
    """`model(image)` is `model.upscale(image)`."""
    np.testing.assert_array_equal(np.asarray(model(Image.fromarray(image), steps=2, seed=3)), expected)


@pytest.mark.parametrize(
    ("arrange", "back"),
    [
        (lambda x: x, lambda y: y),
        (lambda x: x.permute(2, 0, 1), lambda y: y.permute(1, 2, 0)),
        (lambda x: torch.stack([x, x]), lambda y: y[1]),
        (lambda x: torch.stack([x, x]).permute(0, 3, 1, 2), lambda y: y[0].permute(1, 2, 0)),
    ],
)
def test_tensors_keep_their_layout(model, image, expected, arrange, back):
    """[H, W, C], [C, H, W] and batches of both; the values are those of the array."""
    given = arrange(torch.from_numpy(image))
    large = model(given, steps=2, seed=3)
    assert large.dtype == torch.uint8
    assert large.ndim == given.ndim
    np.testing.assert_array_equal(back(large).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_floats(model, image, expected, dtype):
    """Floats of 0 to 1 keep their type; grey, alpha and gradients are accepted."""
    large = model((torch.from_numpy(image).permute(2, 0, 1) / 255).to(dtype).requires_grad_(), steps=2, seed=3)
    assert large.dtype == dtype
    assert large.shape == (3, 24, 36)
    assert (large.float().permute(1, 2, 0).numpy() * 255 - expected).__abs__().mean() < 2
    for shape in ((6, 9), (1, 6, 9), (6, 9, 1), (2, 6, 9), (2, 4, 6, 9), (2, 6, 9, 1)):
        scaled = model(torch.rand(shape).to(dtype), regress=True).shape
        assert scaled == tuple(4 * side if side in (6, 9) else side for side in shape)


def test_what_is_no_image_is_said(model, image):
    """Channels first and batches of arrays are recognised; tensors of integers, lists and None are named."""
    with pytest.raises(ImageError, match=r"looks like channels first \[C, H, W\]: pass image.transpose\(1, 2, 0\)"):
        model(image.transpose(2, 0, 1))
    with pytest.raises(ImageError, match="looks like a batch: pass its images one by one, or a torch tensor"):
        model(image[None])
    for wrong in (torch.zeros(6, 9, 7), torch.zeros(3, 6, 9, dtype=torch.int64), torch.zeros(0, 3, 6, 9), torch.zeros(5)):
        with pytest.raises(ImageError, match=r"expected a tensor \[H, W\], \[C, H, W\]"):
            model(wrong)
    with pytest.raises(ImageError, match="floats of 0 to 1, got 0 to 255; divide by 255"):
        model(torch.tensor([[0.0, 255.0]]))
    for wrong in ([[1, 2]], None, 3):
        with pytest.raises(ImageError, match=f"expected an image: .*, got {type(wrong).__name__}"):
            model(wrong)


def test_a_random_seed(model, image, caplog):
    """`seed=None` draws a random seed and logs it; the same seed gives the same image."""
    with caplog.at_level("INFO", logger="samdiff"):
        one, two = (model(image, steps=2, seed=None) for _ in range(2))
    assert (one != two).any()
    seeds = [int(record.args[0]) for record in caplog.records if record.msg == "seed %d"]
    np.testing.assert_array_equal(model(image, steps=2, seed=seeds[0]), one)


def test_model_repr_and_to(model, image, expected):
    assert "model.safetensors', x4, official, 0." in repr(model)
    assert repr(model).endswith("M parameters, on cpu)")
    assert model.to("cpu") is model.to(torch.device("cpu")) is model
    np.testing.assert_array_equal(model(image, steps=2, seed=3), expected)
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"):
        model.to("gpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigError, match="mps was requested, but PyTorch .* sees no Apple GPU"):
            model.to("mps")


def test_a_misspelt_model_is_suggested(tmp_path, monkeypatch):
    """`shipped`, and files and runs beside the path; no suggestion without a similar name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="shiped: there is no such checkpoint; did you mean shipped"):
        samdiff.load_model("shiped")
    (tmp_path / "runs/photos-tiny").mkdir(parents=True)
    write_model(tmp_path / "runs/photos-tiny/model.safetensors")
    for wrong, right in (("photo-tiny", "photos-tiny"), ("photos-tiny/modle.safetensors", "photos-tiny/model.safetensors")):
        with pytest.raises(CheckpointError, match=f"did you mean runs/{right}"):
            samdiff.load_model(f"runs/{wrong}")
    with pytest.raises(CheckpointError, match="no such checkpoint; `samdiff train` writes"):
        samdiff.load_model("elsewhere/nothing.bin")


@pytest.mark.parametrize("name", ["caf\udce9.png", "a\x1b[31m.png", "a\nb.png"])
def test_errors_of_files_show_any_name_on_one_line(tmp_path, name):
    """Missing, damaged, and of a format that cannot be written."""
    shown = printable(tmp_path / name)
    with pytest.raises(ImageError) as missing:
        open_image(tmp_path / name)
    assert str(missing.value) == f"{shown}: there is no such file"
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(ImageError) as damaged:
        open_image(tmp_path / name)
    assert str(damaged.value).startswith(f"{shown}: no image of a known format")
    with pytest.raises(ImageError) as unknown:
        save_image(np.zeros((4, 4, 3), np.uint8), tmp_path / f"{name}.txt")
    assert str(unknown.value).startswith(f"{shown}.txt: expected a file ending in")
