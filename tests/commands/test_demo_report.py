"""The end of `samdiff demo`: an evaluation of the held-out image, and the report of all; the commands are recorded, not run."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from samdiff.commands import demo_steps
from samdiff.commands.demo_steps import BENCHMARK, DemoConfig, check_folder, run_demo
from samdiff.errors import ConfigError
from samdiff.report.page import MARK


@pytest.fixture
def commands(monkeypatch):
    """The commands of a demo whose steps all succeed."""
    ran = []

    def record(words, **_):
        ran.append(words[3:])
        return SimpleNamespace(returncode=0)

    photographs = {"photos/a.png": np.zeros((8, 8, 3), np.uint8), BENCHMARK: np.ones((8, 8, 3), np.uint8)}
    photographs |= {"held_out_hr.png": photographs[BENCHMARK], "held_out_lr.png": np.ones((2, 2, 3), np.uint8)}
    monkeypatch.setattr(demo_steps, "sample_images", lambda: photographs)
    monkeypatch.setattr(demo_steps, "compare", lambda *_: [])
    monkeypatch.setattr(subprocess, "run", record)
    return ran


def test_the_report_is_the_last_step(tmp_path, commands):
    folder, lines = tmp_path / "demo", []
    run_demo(DemoConfig(folder), lambda *texts: lines.extend(texts), print)
    evaluate, report = commands[-2:]
    assert evaluate[:3] == ["evaluate", "--benchmark", str(folder / "held_out")]
    assert "--save" in evaluate
    assert report == [
        "report",
        *(str(folder / name) for name in ("evaluation", "run", "photos.zarr")),
        "-o",
        str(folder / "report.html"),
        "--overwrite",
    ]
    assert f"report: {folder / 'report.html'}; open it in a browser" in lines
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "figures.json").write_text("{}")
    run_demo(DemoConfig(folder), lambda *texts: None, print)
    assert [words[0] for words in commands[-2:]] == ["infer", "report"]


def test_without_its_packages_one_line_says_so(tmp_path, commands, monkeypatch):
    lines = []
    monkeypatch.setattr(demo_steps.importlib.util, "find_spec", lambda name: None if name == "plotly" else name)
    run_demo(DemoConfig(tmp_path / "demo"), lambda *texts: lines.extend(texts), print)
    assert "no report, since plotly is not installed: pip install 'samdiff[report]'" in lines
    assert "report" not in [words[0] for words in commands]


def test_a_report_of_others_is_kept(tmp_path):
    (tmp_path / "report.html").write_text("theirs")
    with pytest.raises(ConfigError, match=r"report\.html: exists already and was not written by this demo"):
        check_folder(tmp_path, {}, False)
    (tmp_path / "report.html").write_text(f"<html>{MARK} 0.1.0")
    check_folder(tmp_path, {}, False)
