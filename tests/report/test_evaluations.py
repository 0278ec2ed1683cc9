"""What a page shows of an evaluation equals what `samdiff evaluate` wrote."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from samdiff.errors import ConfigError
from samdiff.model.evaluation.evaluate import Row, as_json
from samdiff.model.inference.image_io import save_image
from samdiff.report.evaluations import chosen_images, read_evaluation
from samdiff.report.files import ImageFiles

from ..helpers.hostile_text import HOSTILE


@pytest.fixture
def files(tmp_path):
    return ImageFiles(tmp_path / "files", inline_bytes=1 << 30)


def write_evaluation(folder, names=("a", "b"), save=True, benchmark="set", size=(6, 8)):
    rows, pixels = [], {}
    for number, name in enumerate(names):
        for method, seed in (("bicubic", 0), ("rrdb", 0), ("samdiff", 0), ("samdiff", 1)):
            rows.append(
                Row(benchmark, name, method, seed=seed, metrics={"psnr_y": 20.0 + number + seed, "lpips": 0.5 - seed / 10})
            )
            pixels[name, method if method != "samdiff" else f"samdiff-seed{seed}"] = np.full(
                (*size, 3), 3 * len(pixels) % 256, np.uint8
            )
        pixels[name, "hr"] = np.full((*size, 3), 77, np.uint8)
    folder.mkdir()
    (folder / "figures.json").write_text(as_json(rows, {"checkpoint": "m", "skipped": {"x": "too small"}}))
    if save:
        for (name, method), image in pixels.items():
            save_image(image, folder / "pictures" / benchmark / f"{name}_{method}.png")
    return pixels


def test_table_rows_and_images(tmp_path, files):
    pixels = write_evaluation(tmp_path / "ev")
    part = read_evaluation(tmp_path / "ev", files, images=9, side=99)
    assert part.metrics == ("psnr_y", "lpips")
    assert part.lower_is_better == ("lpips",)
    assert [(row[0], row[1]) for row in part.summary] == [("set", "bicubic"), ("set", "rrdb"), ("set", "samdiff")]
    assert part.summary[2][2] == (21.0, pytest.approx(0.45))
    assert part.summary[2][3][0] == pytest.approx(0.5)  # of two seeds' means, 20.5 and 21.5
    assert ("set", "b", "samdiff-seed1", (22.0, pytest.approx(0.4))) in part.rows
    assert part.skipped == (("x", "too small"),)
    assert part.numbers == (("set: PSNR on Y, +0.50 to bicubic", "21.00 dB"), ("set: LPIPS, -0.050 to bicubic", "0.450"))
    assert [(image.name, [result[0] for result in image.results]) for image in part.images] == [
        (name, ["bicubic", "rrdb", "samdiff-seed0", "samdiff-seed1", "hr"]) for name in ("a", "b")
    ]
    for image in part.images:
        for method, key, difference in image.results:
            shown = np.asarray(Image.open(io.BytesIO(files.inline[key])))
            assert np.array_equal(shown, pixels[image.name, method])
            assert bool(difference) == (method != "hr")


def test_constants_are_those_of_evaluate():
    """They are repeated, because `report` loads no PyTorch."""


def test_without_images_and_without_hr(tmp_path, files):
    write_evaluation(tmp_path / "ev", save=False)
    part = read_evaluation(tmp_path / "ev", files, images=9, side=99)
    assert part.images == ()
    assert "has no images: samdiff evaluate --save" in part.notes[0]
    write_evaluation(tmp_path / "ev2")
    for file in (tmp_path / "ev2").rglob("*_hr.png"):
        file.unlink()
    part = read_evaluation(tmp_path / "ev2", files, images=9, side=99)
    assert [result[2] for image in part.images for result in image.results] == [""] * 8
    assert any("HR was not saved" in note for note in part.notes)


def test_the_worst_and_the_best_are_shown(tmp_path, files):
    write_evaluation(tmp_path / "ev", names=tuple("abcdef"))
    part = read_evaluation(tmp_path / "ev", files, images=3, side=99)
    assert sorted(image.name for image in part.images) == ["a", "b", "f"]
    assert "3 worst and best of 6" in part.notes[0]
    rows = [("s", name, "samdiff-seed0", (value,)) for name, value in zip("abc", (0.3, 0.1, 0.2), strict=True)]
    assert chosen_images(rows, ("lpips",), 2) == [("s", "a"), ("s", "b")]  # of LPIPS, the highest is the worst
    assert chosen_images(rows, ("lpips",), 0) == []


def test_large_images_are_reduced_and_said_so(tmp_path, files):
    write_evaluation(tmp_path / "ev", names=("a",))
    part = read_evaluation(tmp_path / "ev", files, images=9, side=4)
    assert (part.images[0].width, part.images[0].height, part.images[0].reduced) == (4, 3, True)
    assert any("their pixels are not exact" in note for note in part.notes)


def test_names_from_outside(tmp_path, files):
    """`figures.json` has the printable form; the files are found by it."""
    name = HOSTILE.replace("\r", "")
    write_evaluation(tmp_path / "ev", names=(name,), benchmark=f"{name}set")
    part = read_evaluation(tmp_path / "ev", files, images=9, side=99)
    assert len(part.images[0].results) == 5
    assert "\x1b" not in part.images[0].name


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"pictures": 3, "summary": []}', '{"pictures": [4], "summary": []}', "[" * 100_000]
)
def test_another_file_is_an_error(tmp_path, files, content):
    (tmp_path / "figures.json").write_text(content)
    with pytest.raises(ConfigError, match=r"figures\.json"):
        read_evaluation(tmp_path, files, images=9, side=99)


def test_values_of_other_kinds_are_left_out(tmp_path, files):
    line = {"benchmark": "s", "picture": "<b>", "method": 3, "psnr_y": "high", "ldl": True}
    (tmp_path / "figures.json").write_text(json.dumps({"pictures": [line], "summary": [{"psnr_y": [1]}], "skipped": 3}))
    part = read_evaluation(tmp_path, files, images=9, side=99)
    assert part.rows == (("s", "<b>", "3", (None, None)),)
    assert part.summary[0][2] == (None, None)
