"""`samdiff infer --dry-run`: the plan of a run and nothing else; what it says is what the run then does."""

import json

import numpy as np
import pytest
from PIL import Image

from samdiff.cli import main
from samdiff.pipeline.images.inputs import header_size

from ..helpers.models import write_model


def run(*words) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["infer", *map(str, words)])
    return int(stopped.value.code or 0)


def write_images(folder):
    """Two images in subfolders, and one text file with an image's name."""
    for name, size in (("a.png", (9, 5)), ("deep/er/b.png", (6, 4))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), 99, np.uint8)).save(folder / name)
    (folder / "c.png").write_text("no image")
    return folder


def test_the_plan_is_what_the_run_does(tmp_path, capsys):
    """The same files with the same sizes and the structure of the folders; nothing is written before."""
    model, source, out = write_model(tmp_path / "m.safetensors"), write_images(tmp_path / "in"), tmp_path / "out"
    words = [source, "-r", "-o", out, "--checkpoint", model, "--rrdb-only", "--json"]
    assert run(*words, "--dry-run") == 3
    plan = json.loads(capsys.readouterr().out)
    assert not list(out.rglob("*.png"))
    assert plan["dry_run"] is True
    assert plan["seconds"] > 0
    assert [(each["status"], each["size"], each["output_size"]) for each in plan["images"]] == [
        ("planned", [9, 5], [36, 20]),
        ("skipped", None, None),  # c.png is no image
        ("planned", [6, 4], [24, 16]),
    ]
    assert run(*words) == 3
    done = json.loads(capsys.readouterr().out)
    written = {each["target"]: each["output_size"] for each in done["images"] if each["status"] == "written"}
    assert written == {each["target"]: each["output_size"] for each in plan["images"] if each["size"]}
    assert sorted(file.relative_to(out).as_posix() for file in out.rglob("*.png")) == ["a_x4.png", "deep/er/b_x4.png"]
    assert run(*words, "--dry-run") == 3
    again = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in again["images"]] == ["kept", "skipped", "kept"]


def test_lines_for_people(tmp_path, capsys):
    """A foreign output is skipped, with status 3 as in the run; so is a file that is no image, or is missing."""
    model, source = write_model(tmp_path / "m.safetensors"), write_images(tmp_path / "in")
    (source / "a_x4.png").write_text("theirs")
    assert run(source / "a.png", source / "c.png", source / "none.png", "--checkpoint", model, "--rrdb-only", "--dry-run") == 3
    shown = capsys.readouterr()
    assert "dry run, nothing was written: 0 images to upscale\n" in shown.out
    assert [line.partition(":")[0] for line in shown.err.splitlines() if line.startswith("skipped")] == [
        f"skipped {source / name}" for name in ("a.png", "c.png", "none.png")
    ]
    assert (source / "a_x4.png").read_text() == "theirs"
    assert run(source / "deep/er/b.png", "--checkpoint", model, "--rrdb-only", "--dry-run") == 0
    assert "1 image to upscale, 2.4e-05 -> 0.000384 megapixels, about 0 s on cpu" in capsys.readouterr().out


def test_a_damaged_header_has_no_size(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (tmp_path / "folder.png").mkdir()
    assert header_size(tmp_path / "a.png") is None
    assert header_size(tmp_path / "folder.png") is None
    assert header_size(tmp_path / "none.png") is None
