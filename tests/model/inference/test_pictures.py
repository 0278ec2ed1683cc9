"""Files in, files out: names, kinds, what belongs to an image, and bad files among good ones."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from samdiff import __version__, load_model
from samdiff.errors import CheckpointError, ConfigError, ImageError
from samdiff.model.inference.batch import OutputConfig, list_inputs, plan_outputs, upscale_files
from samdiff.model.inference.image_io import has_provenance, open_image, read_image_file, save_image, upright
from samdiff.model.inference.upscaler import InferConfig

from ...helpers.models import write_model

FAST = InferConfig(regress=True)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("run") / "model.safetensors")


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file, "cpu")


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def make(model, inputs, settings=FAST, **output):
    """Plan and do; the failures."""
    chosen = OutputConfig(**output)
    return upscale_files(model, plan_outputs(list_inputs(inputs, chosen.suffix), chosen), settings, chosen, lambda _: None)


def test_images_are_read_as_they_are(tmp_path):
    """Grey, RGBA and WebP; 16-bit grey, RGB, RGBA PNG and TIFF keep all bits."""
    for name, image in (("g.png", random_image(5, 6)), ("a.png", random_image(5, 6, 4)), ("c.webp", random_image(5, 6, 3))):
        Image.fromarray(image).save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        np.testing.assert_array_equal(open_image(tmp_path / name), image)
    wide = np.random.default_rng(0).integers(0, 65536, (7, 5, 4), dtype=np.uint16)
    for name, pixels in (("g.png", wide[..., 0]), ("c.png", wide[..., :3]), ("a.png", wide), ("c.tif", wide[..., :3])):
        order = pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        cv2.imwrite(str(tmp_path / name), order)
        np.testing.assert_array_equal(read_image_file(tmp_path / name).pixels, pixels)
        assert np.abs(open_image(tmp_path / name) - pixels / 257).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_orientation_is_applied_once(tmp_path, orientation, kind):
    """As Pillow's exif_transpose does; the tag is gone from what is kept."""
    from PIL import ImageOps

    image = Image.fromarray(random_image(4, 7, 3))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"t.{kind}", exif=exif)
    result = read_image_file(tmp_path / f"t.{kind}")
    with Image.open(tmp_path / f"t.{kind}") as opened:
        np.testing.assert_array_equal(result.pixels, np.asarray(ImageOps.exif_transpose(opened)))
    np.testing.assert_array_equal(result.pixels, upright(np.asarray(image), orientation))
    assert 0x0112 not in result.exif


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_16_bit_png_is_written_whole(tmp_path, bands):
    """Our own writer, read back by OpenCV and Pillow, with profile, EXIF and text."""
    image = np.random.default_rng(bands).integers(0, 65536, (9, 6, bands), dtype=np.uint16)
    image = image[..., 0] if bands == 1 else image
    Image.fromarray(random_image(2, 2, 3)).save(tmp_path / "s.png", icc_profile=srgb())
    save_image(image, tmp_path / "w.png", read_image_file(tmp_path / "s.png"), {"Software": "samdiff 9", "A": "B é"})
    np.testing.assert_array_equal(read_image_file(tmp_path / "w.png").pixels, image)
    with Image.open(tmp_path / "w.png") as opened:
        opened.verify()
    with Image.open(tmp_path / "w.png") as opened:
        opened.load()
        assert opened.text == {"Software": "samdiff 9", "A": "B é"}
        assert opened.info["icc_profile"] == srgb()


@functools.cache  # it holds the time
def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_profile_exif_and_provenance(model, tmp_path, kind):
    """ICC and EXIF are kept, sizes in EXIF are updated; the file has provenance, or none."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    exif.get_ifd(0x8769)[0xA002] = 6
    exif.get_ifd(0x8769)[0x829A] = 0.004  # exposure time
    Image.fromarray(random_image(5, 6, 3)).save(tmp_path / "in.jpg", icc_profile=srgb(), exif=exif)
    assert make(model, [tmp_path / "in.jpg"], InferConfig(steps=2, seed=5), format=kind) == {}
    with Image.open(tmp_path / f"in_x4.{kind}") as opened:
        assert opened.size == (20, 24)  # turned
        result = opened.getexif()
        assert opened.info["icc_profile"] == srgb()
        reported = " ".join(opened.text.values()) if kind == "png" else f"{result[0x0131]} {result[0x010E]}"
    assert result[0x010F] == "Camera"
    assert 0x0112 not in result
    assert result.get_ifd(0x8769)[0xA002] == 20
    assert float(result.get_ifd(0x8769)[0x829A]) == pytest.approx(0.004)
    for part in (f"samdiff {__version__}", "ddpm, 2 steps, seed 5", "synthesised", f"sha256 {model.sha256[:16]}"):
        assert part in reported
    make(model, [tmp_path / "in.jpg"], out=tmp_path / f"silent.{kind}", provenance=False)
    data = (tmp_path / f"silent.{kind}").read_bytes()
    assert b"samdiff" not in data
    assert b"Camera" in data


def test_a_profile_of_other_colours_is_dropped(model, tmp_path):
    """A CMYK image becomes RGB: its profile would be wrong there."""
    profile = bytearray(srgb())
    profile[16:20] = b"CMYK"
    Image.new("CMYK", (4, 4)).save(tmp_path / "c.jpg", icc_profile=bytes(profile))
    assert read_image_file(tmp_path / "c.jpg").icc is None


def test_bits_and_formats(model, tmp_path):
    """16 bits out of 8 and 16 bits, 8 out of 16; formats that cannot hold an image are an error."""
    save_image(random_image(4, 4, 3), tmp_path / "a.png")
    save_image(random_image(4, 4, 4).astype(np.uint16) * 257, tmp_path / "b.png")
    assert make(model, [tmp_path / "a.png", tmp_path / "b.png"], bits=16) == {}
    assert read_image_file(tmp_path / "a_x4.png").pixels.dtype == np.uint16
    fine = read_image_file(tmp_path / "b_x4.png").pixels
    assert (fine[..., :3] % 257 != 0).any()  # more than 8 bits stretched
    assert make(model, [tmp_path / "b.png"], out=tmp_path / "c.png") == {}
    assert read_image_file(tmp_path / "c.png").pixels.dtype == np.uint8
    with pytest.raises(ImageError, match="JPEG cannot hold"):
        save_image(random_image(4, 4, 4), tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="WebP holds at most 16383"):
        save_image(np.zeros((1, 16384), np.uint8), tmp_path / "x.webp")
    for bad in ({"format": "gif"}, {"bits": 12}, {"bits": 16, "format": "jpg"}, {"suffix": "a/b"}):
        with pytest.raises(ConfigError):
            OutputConfig(**bad)


def test_one_bad_file_does_not_stop_the_rest(model, tmp_path):
    """Text named .png, half a file, no byte, no file, alpha for JPEG, an output that exists: each is listed, the good one is made."""
    save_image(random_image(4, 4, 3), tmp_path / "good.png")
    save_image(random_image(4, 4, 4), tmp_path / "alpha.png")
    (tmp_path / "text.png").write_text("hello")
    good = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "done.png").write_bytes(good)
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "done_x4.jpg").touch()
    names = ("text.png", "good.png", "alpha.png", "cut.png", "zero.png", "none.png", "done.png")
    failed = make(model, [tmp_path / name for name in names], out=tmp_path / "o", format="jpg")
    reasons = {Path(name).name: reason for name, reason in failed.items()}
    assert reasons["text.png"].startswith("no image of a known format")
    assert reasons["zero.png"] == "an empty file (0 bytes)"
    assert reasons["none.png"] == "there is no such file"
    assert "transparency" in reasons["alpha.png"]
    assert "was not made from this input by this model with these settings, and exists already" in reasons["done.png"]
    assert sorted(reasons) == ["alpha.png", "cut.png", "done.png", "none.png", "text.png", "zero.png"]
    assert (tmp_path / "o" / "good_x4.jpg").exists()
    with pytest.raises(ImageError, match="no image of a known format"):
        make(model, [tmp_path / "text.png"])
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written .*give another"):
        make(model, [tmp_path / "good.png"], out=tmp_path / "file" / "sub")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_the_same_command_goes_on(model, tmp_path, kind):
    """Outputs with the same provenance are kept; others are listed and not changed."""
    names = [tmp_path / f"é{n}.png" for n in range(2)]
    for n, name in enumerate(names):
        save_image(random_image(4, 4 + n, 3), name)
    chosen = InferConfig(steps=1)
    jobs = plan_outputs(names, OutputConfig(format=kind))[:1]
    assert upscale_files(model, jobs, chosen, OutputConfig(format=kind), print) == {}  # stopped after the first
    first = jobs[0].target.stat()
    assert make(model, names, chosen, format=kind) == {}
    assert make(model, names, chosen, format=kind) == {}
    kept = jobs[0].target.stat()
    assert (kept.st_mtime_ns, kept.st_ino) == (first.st_mtime_ns, first.st_ino)
    for settings, output in (
        (InferConfig(steps=1, seed=1), {}),
        (InferConfig(steps=1, tile=0), {}),
        (chosen, {"provenance": False}),
        *([(chosen, {"bits": 16})] if kind == "png" else []),
    ):
        failed = make(model, names, settings, format=kind, **output)
        assert list(failed) == [str(name) for name in names]
        assert all("exists already; give --overwrite" in reason for reason in failed.values())
    save_image(random_image(5, 5, 3), names[0])
    assert list(make(model, names, chosen, format=kind)) == [str(names[0])]
    make(model, names, chosen, format=kind, overwrite=True, provenance=False)
    assert list(make(model, names, chosen, format=kind)) == [str(name) for name in names]


def test_large_results_are_recognised(tmp_path, monkeypatch):
    """More pixels than Pillow opens; a file of another format than its suffix, and half a file, have no provenance."""
    reported = {"Software": "samdiff 9"}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    save_image(random_image(9, 9), tmp_path / "a.png", origin=reported)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")
    assert has_provenance(tmp_path / "a.png", reported)
    assert not has_provenance(tmp_path / "a.png", {**reported, "samdiff-input": "another"})
    (tmp_path / "b.webp").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    assert not any(has_provenance(tmp_path / name, reported) for name in ("b.webp", "c.png"))
    for kind in ("png", "jpg", "webp"):
        whole = tmp_path / f"whole.{kind}"
        save_image(random_image(64, 64, 3), whole, origin=reported)
        assert has_provenance(whole, reported)
        whole.write_bytes(whole.read_bytes()[:-100])
        assert not has_provenance(whole, reported)


def test_folders_patterns_and_names(model, tmp_path):
    """Folders and patterns are listed in order; a second run does not take the first one's results for inputs."""
    for name in ("b.png", "a.jpg", "a.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in list_inputs([tmp_path], "_x4")] == ["a.jpg", "b.png"]
    (tmp_path / "b_x4.png").touch()
    (tmp_path / "c_x4.png").touch()  # of no input here
    assert [p.name for p in list_inputs([tmp_path], "_x4")] == ["a.jpg", "b.png", "c_x4.png"]
    assert [p.name for p in list_inputs([str(tmp_path / "[ab].*g"), tmp_path / "b.png"], "")] == ["a.jpg", "b.png"]
    with pytest.raises(ImageError, match="matches no file"):
        list_inputs([str(tmp_path / "*.bmp")], "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        list_inputs([tmp_path / "empty"], "")


def test_outputs_are_planned_before_anything_is_computed(tmp_path):
    """Two inputs of one name, an existing output, a file for several, an unknown format, the input itself."""
    a, b = tmp_path / "a.png", tmp_path / "sub" / "a.png"

    def plan(inputs, **output):
        return [job.target for job in plan_outputs(inputs, OutputConfig(**output))]

    assert plan([a]) == [tmp_path / "a_x4.png"]
    assert plan([a], suffix="_big", format="webp") == [tmp_path / "a_big.webp"]
    assert plan([a], out=tmp_path / "o.webp") == [tmp_path / "o.webp"]
    for inputs, output, match in (
        ([a, b], {"out": tmp_path / "o"}, "would both become"),
        ([a, b], {"out": tmp_path / "o.png"}, "cannot go to one file"),
        ([a], {"out": tmp_path / "o.gif"}, "expected a folder or a file ending in"),
    ):
        with pytest.raises(ConfigError, match=match):
            plan(inputs, **output)
    (tmp_path / "a_x4.png").touch()
    with pytest.raises(ConfigError, match="exists already; give --overwrite"):
        plan([a])
    assert plan([a], overwrite=True) == [tmp_path / "a_x4.png"]
    a.touch()
    with pytest.raises(ConfigError, match="is the input itself"):
        plan([a], suffix="", overwrite=True)


def test_the_command(model_file, tmp_path):
    """Exit status 3 with the reasons on stderr; wrong steps are an error before any work."""
    save_image(random_image(6, 5, 3), tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def infer(*arguments):
        words = [sys.executable, "-m", "samdiff.cli", "infer", str(tmp_path), "--checkpoint", str(model_file), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)

    done = infer("--steps", "2", "-o", str(tmp_path / "out"), "--suffix", "@4x")
    assert done.returncode == 3, done.stderr
    assert "bad.png: no image of a known format" in done.stderr
    assert "5 x 6 -> " in done.stdout
    assert open_image(tmp_path / "out" / "good@4x.png").shape == (24, 20, 3)
    wrong = infer("--steps", "0")
    assert wrong.returncode == 2
    assert "expected 1 to 100" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_model_of_another_scale_is_refused(model):
    with pytest.raises(CheckpointError, match="trained for x4, x2 was requested"):
        model.expect_scale(2)
