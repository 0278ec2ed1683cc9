"""`--json-lines`: one JSON object per line, as soon as an item is finished; the same items as in the document of `--json`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from samdiff.cli import main
from samdiff.commands import document

from ..helpers.models import write_model
from ..helpers.stores import make_store


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setenv("SAMDIFF_QUIET", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.safetensors")


def run(capsys, *words: object) -> tuple[int, list[dict]]:
    """Status, and the objects of all lines."""
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    return int(stopped.value.code or 0), [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def write_image(path: Path, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(path)


def test_infer_prints_an_image_before_the_next_is_written(model, tmp_path, capsys, monkeypatch):
    """Lines in order with what is on disk at that moment; failures are lines; a second run keeps; status 3 as ever."""
    for name in ("a.png", "deep/c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("no image")
    out, there, printed = tmp_path / "out", [], document._print
    monkeypatch.setattr(
        document, "_print", lambda *given: (there.append(sorted(file.name for file in out.rglob("*.png"))), printed(*given))
    )
    words = ["infer", tmp_path / "in", "-r", "-o", out, "--checkpoint", model, "--rrdb-only"]
    status, lines = run(capsys, *words, "--json-lines")
    assert status == 3
    assert there == [["a_x4.png"], ["a_x4.png"], ["a_x4.png", "c_x4.png"], ["a_x4.png", "c_x4.png"]]
    assert [line["type"] for line in lines] == ["image", "image", "image", "end"]
    assert [line.get("status") for line in lines] == ["written", "skipped", "written", None]
    assert "no image of a known format" in lines[1]["reason"]
    assert lines[2]["target"] == str(out / "deep" / "c_x4.png")
    assert (lines[0]["size"], lines[0]["output_size"]) == ([8, 8], [32, 32])
    end = lines[-1]
    assert end["counts"] == {"written": 2, "skipped": 1}
    assert end["elapsed_seconds"] >= lines[0]["seconds"] + lines[2]["seconds"] - 0.002
    assert end["scale"] == 4
    assert "images" not in end
    whole = [
        {key: value for key, value in line.items() if key != "type"} for line in run(capsys, *words, "--json-lines")[1][:-1]
    ]
    assert [line["status"] for line in whole] == ["kept", "skipped", "kept"]
    with pytest.raises(SystemExit):
        main(list(map(str, [*words, "--json"])))
    assert json.loads(capsys.readouterr().out)["images"] == whole


def test_a_dry_run_has_lines_too(model, tmp_path, capsys):
    write_image(tmp_path / "a.png")
    status, lines = run(capsys, "infer", tmp_path / "a.png", "--checkpoint", model, "--rrdb-only", "--dry-run", "--json-lines")
    assert status == 0
    assert [line["type"] for line in lines] == ["image", "end"]
    assert lines[0]["status"] == "planned"
    assert lines[1]["dry_run"] is True
    assert lines[1]["seconds"] > 0  # an estimate


def test_an_error_is_the_last_line(model, tmp_path, capsys):
    """The only image cannot be read: status 1 as without the option, and a line with the reason instead of `end`."""
    (tmp_path / "a.png").write_text("no image")
    status, lines = run(capsys, "infer", tmp_path / "a.png", "--checkpoint", model, "--json-lines")
    assert status == 1
    assert [line["type"] for line in lines] == ["error"]
    assert lines[0]["reason"].startswith(f"{tmp_path / 'a.png'}: no image of a known format")


def test_stores_before_an_error_are_not_lost(tmp_path, capsys):
    make_store(tmp_path / "x.zarr")
    status, lines = run(capsys, "info", tmp_path / "x.zarr", tmp_path / "none.zarr", "--json-lines")
    assert status == 1
    assert [line["type"] for line in lines] == ["store", "error"]
    assert lines[0]["images"]["count"] == 3
    status, lines = run(capsys, "verify", tmp_path / "x.zarr", "--json-lines")
    assert (status, lines[0]["sound"], lines[1]["type"], lines[1]["counts"]) == (0, True, "end", {"done": 1})


def test_evaluate_has_a_line_per_result(model, tmp_path, capsys):
    """Also for images that an interrupted run finished; the last line has the summary."""
    for name in "ab":
        write_image(tmp_path / "bench" / f"{name}.png", side=32)
    words = ["evaluate", "--benchmark", tmp_path / "bench", "--checkpoint", model, "--steps", "1", "-o", tmp_path / "out"]
    status, lines = run(capsys, *words, "--json-lines")
    assert status == 0
    assert [(line["image"], line["method"]) for line in lines[:-1]] == [
        (image, method) for image in "ab" for method in ("bicubic", "rrdb", "samdiff")
    ]
    assert all(line["psnr_y"] > 0 for line in lines[:-1])
    assert {line["method"] for line in lines[-1]["summary"]} == {"bicubic", "rrdb", "samdiff"}
    assert "pictures" not in lines[-1]


def test_one_of_both_forms(tmp_path, capsys):
    assert run(capsys, "info", tmp_path, "--json", "--json-lines") == (2, [])


@pytest.mark.weights
def test_masks_reports_what_it_cannot_use_first(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in" / "a.png", side=40)
    write_image(tmp_path / "in" / "b.png", side=40)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b_masks.png").write_text("theirs")
    status, lines = run(capsys, "masks", "in", "-o", "out", "--points-per-side", "1", "--json-lines")
    assert status == 3
    assert [(line["type"], Path(line.get("source", "")).name, line.get("status")) for line in lines] == [
        ("image", "b.png", "skipped"),
        ("image", "a.png", "written"),
        ("end", "", None),
    ]
    assert lines[-1]["segmenter"]["name"] == "mobile_sam"
