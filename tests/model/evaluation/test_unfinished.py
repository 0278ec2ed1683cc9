"""An interrupted evaluation resumes: finished images are not computed again, and the tables are the same to the byte."""

import json
from pathlib import Path

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError
from samdiff.model.evaluation.evaluate import Pair, Row
from samdiff.model.evaluation.unfinished import FILE, Unfinished
from samdiff.model.inference.image_io import save_image
from samdiff.model.inference.upscaler import SuperResolver

from ...helpers.models import write_model

TABLES = ("figures.csv", "figures.json", "table.md")


def pair(seed: int = 0, name: str = "a") -> Pair:
    random = np.random.default_rng(seed)
    return Pair(name, random.integers(0, 256, (4, 5, 3), np.uint8), random.integers(0, 256, (16, 20, 3), np.uint8))


ROWS = [
    Row("set", "a", "bicubic", 0, {"psnr_y": 0.1 + 0.2, "ssim_y": float("inf")}),
    Row("set", "a", "samdiff", 1, {"psnr_y": 3.0}),
]


def test_rows_come_back_to_the_bit(tmp_path):
    first = Unfinished(tmp_path, {"model": "x"})
    assert first.rows("set", pair()) is None
    first.finished("set", pair(), ROWS)
    again = Unfinished(tmp_path, {"model": "x"})
    assert not again.replaced
    assert again.rows("set", pair()) == ROWS
    assert again.rows("set", pair(1)) is None  # other pixels
    assert again.rows("other", pair()) is None
    assert again.rows("set", pair(name="b")) is None
    other = Unfinished(tmp_path, {"model": "y"})
    assert other.replaced
    assert other.rows("set", pair()) is None


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_line_cut_short_is_dropped(tmp_path, cut):
    first = Unfinished(tmp_path, {})
    first.finished("set", pair(), ROWS)
    whole = first.file.read_bytes()
    first.finished("set", pair(1), ROWS)
    first.file.write_bytes(first.file.read_bytes()[:-cut])
    again = Unfinished(tmp_path, {})
    assert again.rows("set", pair()) == ROWS
    assert again.rows("set", pair(1)) is None
    assert first.file.read_bytes() == whole


def test_a_changed_line_does_not_count(tmp_path):
    first = Unfinished(tmp_path, {})
    first.finished("set", pair(), ROWS)
    first.file.write_bytes(first.file.read_bytes().replace(b"3.0", b"9.0"))
    assert Unfinished(tmp_path, {}).rows("set", pair()) is None


def test_a_file_of_another_program_stays(tmp_path):
    (tmp_path / FILE).write_text("notes\n")
    with pytest.raises(ConfigError, match="another file; move it away"):
        Unfinished(tmp_path, {})
    assert (tmp_path / FILE).read_text() == "notes\n"


def test_saved_files_are_ours_until_they_change(tmp_path):
    kept, file = Unfinished(tmp_path, {}), tmp_path / "pictures" / "a.png"
    save_image(np.zeros((4, 4, 3), np.uint8), file)
    assert not kept.is_ours(file)
    kept.saved(file)
    assert Unfinished(tmp_path, {}).is_ours(file)
    file.write_bytes(b"the user's")
    assert not Unfinished(tmp_path, {}).is_ours(file)


def test_ctrl_c_and_the_same_command(tmp_path: Path, monkeypatch, capsys):
    """Interrupted in the second image: the first is not computed again, its saved images stay, the tables equal those of one run."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    model = str(write_model(tmp_path / "model.safetensors"))
    for number in range(2):
        save_image(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8), tmp_path / "set" / f"{number}.png")
    words = ["evaluate", "--benchmark", str(tmp_path / "set"), "--checkpoint", model, "--steps", "2", "--save"]
    main_status([*words, "-o", str(tmp_path / "whole")], 0)
    real, calls = SuperResolver.upscale, [0]

    def interrupted(self, *arguments, **more):
        calls[0] += 1
        if calls[0] == 4:  # an RRDB image and a sample for each
            raise KeyboardInterrupt
        return real(self, *arguments, **more)

    monkeypatch.setattr(SuperResolver, "upscale", interrupted)
    command = [*words, "-o", str(tmp_path / "out")]
    main_status(command, 130)
    assert "the same command resumes with the remaining images" in capsys.readouterr().err
    before = (tmp_path / "out" / "pictures" / "set" / "0_bicubic.png").stat().st_mtime_ns
    main_status(command, 0)
    assert calls[0] == 6  # two for the second image
    assert "set: 1 of 2 images were finished before" in capsys.readouterr().out
    assert (tmp_path / "out" / "pictures" / "set" / "0_bicubic.png").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / FILE).exists()
    for name in TABLES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(json.loads((tmp_path / "out" / "figures.json").read_text())["pictures"]) == 6
    main_status(command, 2)  # finished: what is there is not replaced


def main_status(words: list[str], status: int) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert (stopped.value.code or 0) == status
