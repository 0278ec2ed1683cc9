"""Whether a result can be written is checked before the work. An unexpected error fails one file only. Hidden colours do not leak."""

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdiff import load_model
from samdiff.errors import ConfigError, ImageError
from samdiff.model.inference.batch import OutputConfig, list_inputs, plan_outputs, upscale_files
from samdiff.model.inference.image_io import plan_write, save_image
from samdiff.model.inference.pixel_format import bled
from samdiff.model.inference.upscaler import InferConfig, SuperResolver
from samdiff.pipeline.decoding.image_data import ReadConfig, decode_image
from samdiff.pipeline.storage import outputs
from samdiff.pipeline.storage.atomic import partial_name
from samdiff.pipeline.storage.outputs import claim_outputs

from ...helpers.models import write_model

FAST = InferConfig(regress=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_model(tmp_path_factory.mktemp("run") / "model.safetensors"), "cpu")


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def make(model, inputs, lines=None, **output):
    chosen = OutputConfig(**output)
    jobs = plan_outputs(list_inputs(inputs, chosen.suffix), chosen)
    return upscale_files(model, jobs, FAST, chosen, (lines if lines is not None else []).append)


@pytest.mark.parametrize(
    ("shape", "format_", "reason"),
    [
        ((8, 8, 4), "jpg", "JPEG cannot hold the image's transparency"),
        ((2, 16_400, 3), "jpg", "JPEG holds at most 65500 pixels per side, got 65600"),
        ((4_100, 2, 3), "webp", "WebP holds at most 16383 pixels per side, got 16400"),
    ],
)
def test_what_a_format_cannot_hold_is_said_before_the_work(model, tmp_path, monkeypatch, shape, format_, reason):
    """As soon as the input is read; nothing is computed."""
    monkeypatch.setattr(SuperResolver, "upscale", lambda *_, **__: pytest.fail("computed"))
    save_image(random_image(*shape), tmp_path / "a.png")
    with pytest.raises(ImageError, match=reason):
        make(model, [tmp_path / "a.png"], format=format_)


def test_tiff_holds_four_gigabytes(tmp_path):
    with pytest.raises(ImageError, match="TIFF holds at most 4 GB"):
        plan_write(tmp_path / "a.tif", (40_000, 40_000, 3), np.uint8)
    plan_write(tmp_path / "a.png", (40_000, 40_000, 3), np.uint8)


def test_an_unexpected_error_fails_one_file_only(model, tmp_path, monkeypatch):
    """The others are made; alone, it is one clear error."""
    for name in "abc":
        save_image(random_image(4, 4, 3), tmp_path / f"{name}.png")
    true = SuperResolver.upscale

    def fail(self, image, *args, **more):
        if fail.count == 1:
            fail.count += 1
            raise struct.error("bad\x1b char")
        fail.count += 1
        return true(self, image, *args, **more)

    fail.count = 0
    monkeypatch.setattr(SuperResolver, "upscale", fail)
    failed = make(model, [tmp_path], out=tmp_path / "o")
    assert [(os.path.basename(name), reason) for name, reason in failed.items()] == [
        ("b.png", r"failed with an unexpected error (error: bad\x1b char)")
    ]
    assert sorted(os.listdir(tmp_path / "o")) == ["a_x4.png", "c_x4.png"]
    fail.count = 1
    with pytest.raises(ImageError, match="unexpected error"):
        make(model, [tmp_path / "a.png"], out=tmp_path / "p")


def test_notes_are_in_the_line(model, tmp_path):
    """Conversions of the input are reported once per image."""
    Image.fromarray(random_image(4, 4, 3)).save(tmp_path / "a.jpg", "PNG")
    lines: list[str] = []
    assert make(model, [tmp_path / "a.jpg"], lines) == {}
    assert lines[0].endswith("16 x 16 (named .jpg but holds PNG)")


def test_floats_are_enlarged_and_written(model, tmp_path):
    """A float TIFF of 0 to 1 becomes 8 or 16 bits."""
    values = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    Image.fromarray(values).save(tmp_path / "a.tif")
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        assert make(model, [tmp_path / "a.tif"], out=tmp_path / f"{bits}.png", bits=bits) == {}
        written = decode_image((tmp_path / f"{bits}.png").read_bytes(), "a.png", ReadConfig(any_range=True))
        assert written.pixels.dtype == dtype


def test_colours_under_alpha_do_not_matter(model):
    """Whatever transparent pixels hold, black or noise, the result is the same, edges included."""
    image = random_image(20, 24, 4)
    image[..., 3] = np.where(np.hypot(*np.mgrid[-10:10, -12:12]) < 8, 255, 0)
    black, noise = image.copy(), image.copy()
    black[image[..., 3] == 0, :3] = 0
    noise[image[..., 3] == 0, :3] = random_image(300, 300, 3)[0, 0]
    np.testing.assert_array_equal(model.upscale(black, FAST), model.upscale(noise, FAST))
    pil = model.upscale(Image.fromarray(black), regress=True)
    np.testing.assert_array_equal(np.asarray(pil), model.upscale(noise, FAST))


def test_bleeding_takes_the_nearest_visible_colour():
    """Against the distance to every visible pixel, by hand; all hidden or all visible is left alone."""
    colour, alpha = random_image(9, 11, 3), (random_image(9, 11) > 200).astype(np.uint8)
    result = bled(colour, alpha)
    rows, columns = np.nonzero(alpha)
    for y, x in np.ndindex(alpha.shape):
        distance = np.hypot(rows - y, columns - x)
        near = np.flatnonzero(distance <= distance.min() * 1.09)  # OpenCV's mask of 5 x 5 is right to 8 per cent
        assert any((result[y, x] == colour[rows[k], columns[k]]).all() for k in near), (y, x)
    np.testing.assert_array_equal(result[alpha > 0], colour[alpha > 0])
    assert bled(colour, np.zeros_like(alpha)) is colour
    assert bled(colour, np.ones_like(alpha)) is colour


def test_helper_names_fit_where_targets_do(tmp_path):
    """Encrypted home folders take 143 bytes, others 255; the place of an output is tried before the work."""
    for length in (1, 98, 99, 140, 143, 200, 255):
        assert len(partial_name("é" * (length // 2) + "x" * (length % 2)).encode()) <= max(140, length)
    target = tmp_path / ("x" * 251 + ".png")
    claim_outputs([("--out", target)], [], False)
    save_image(random_image(2, 2), target)
    assert os.listdir(tmp_path) == [target.name]
    with pytest.raises(ConfigError, match="cannot be written"):
        claim_outputs([("--out", tmp_path / ("x" * 252 + ".png"))], [], False)


def test_the_folder_of_an_output_is_tried_before_the_work(tmp_path, monkeypatch):
    """A disk that is read-only or full, by the system's error (root may write anywhere)."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("samdiff.pipeline.storage.outputs.open", refuse, raising=False)
    with pytest.raises(ConfigError, match="Read-only file system"):
        claim_outputs([("-o", tmp_path / "new" / "a.png")], [], False)
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_made_is_one_error(tmp_path, monkeypatch):
    """Not one line per image, after the work has begun. One folder of several that cannot be written costs only its own images."""
    images = [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        with pytest.raises(
            ConfigError, match=r"^--out .*/file/x.*: cannot be written \(.*/file is not a folder\); give another --out$"
        ):
            plan_outputs(images, OutputConfig(out=out))
    monkeypatch.setattr(outputs, "try_place", refuse_place(lambda target: "sub" in target.parts))
    (tmp_path / "sub").mkdir()
    assert len(plan_outputs(images, OutputConfig())) == 2
    monkeypatch.setattr(outputs, "try_place", refuse_place(lambda target: True))
    with pytest.raises(ConfigError, match=r"Read-only file system.*or give another --out \(and 1 more folders\)$"):
        plan_outputs(images, OutputConfig())
    for image in images:
        image.with_name(f"{image.stem}_x4.png").touch()
    assert [job.problem for job in plan_outputs(images, OutputConfig())] == [outputs.EXISTS] * 2  # kept if they are ours
    assert (tmp_path / "file").read_text() == "mine"


def refuse_place(which):
    def try_place(target: Path) -> None:
        if which(target):
            raise OSError(errno.EROFS, "Read-only file system")

    return try_place
