"""`samdiff prepare` without a source asks before it downloads gigabytes; `samdiff info` stays light."""

import subprocess
import sys

import pytest

from samdiff.cli import main
from samdiff.commands.data import confirm
from samdiff.commands.data.confirm import confirm_download
from samdiff.errors import ConfigError
from samdiff.pipeline.download.datasets import archives_of, load_registry

from ..helpers.stores import make_store


@pytest.fixture
def div2k():
    return archives_of("div2k", load_registry(None))


def test_without_a_terminal_it_is_an_error(tmp_path, monkeypatch, capsys):
    """The line says what would be downloaded, how much, where, and what to give instead; nothing is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit, match="2"):
        main(["prepare"])
    error = capsys.readouterr().err
    assert "no source was given: div2k would be downloaded, 3." in error
    assert "or --yes" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(tmp_path, monkeypatch, div2k, answer):
    questions = []

    def ask(text, abort, err):
        questions.append(text)
        if not answer and abort:
            raise confirm.typer.Abort

    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    monkeypatch.setattr(confirm.typer, "confirm", ask)
    if answer:
        confirm_download("div2k", div2k, tmp_path, yes=False)
    else:
        with pytest.raises(confirm.typer.Abort):
            confirm_download("div2k", div2k, tmp_path, yes=False)
    assert len(questions) == 1
    assert questions[0].endswith("Continue?")


def test_what_is_there_needs_no_question(tmp_path, monkeypatch, div2k, capsys):
    """Archives that were downloaded before, and `--yes`."""
    monkeypatch.setattr("sys.stdin", type("Pipe", (), {"isatty": staticmethod(lambda: False)}))
    confirm_download("div2k", div2k, tmp_path, yes=True)
    assert "GB free" in capsys.readouterr().err  # also with -q
    with pytest.raises(ConfigError, match="no source was given"):
        confirm_download("div2k", div2k, tmp_path, yes=False)
    for archive in div2k:
        (tmp_path / archive.file).touch()
    confirm_download("div2k", div2k, tmp_path, yes=False)


@pytest.mark.parametrize("stdin", [None, type("Pipe", (), {"isatty": staticmethod(lambda: False)})])
def test_large_weights_are_reported_without_a_terminal(tmp_path, monkeypatch, capsys, stdin):
    """Weights of more than 1 GB that are not in the cache; no stdin at all counts as no terminal. A batch job continues."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.stdin", stdin)
    for name, size in (("vit_h", "2.6 GB"), ("vit_l", "1.2 GB")):
        confirm.confirm_weights(name, file=None, source="auto", yes=False)
        assert f"--sam {name}: its weights would be downloaded, {size}" in capsys.readouterr().err
    confirm.confirm_weights("vit_b", file=None, source="auto", yes=False)
    confirm.confirm_weights("vit_h", file=None, source="cache", yes=False)  # downloads nothing
    assert capsys.readouterr().err == ""
    confirm.confirm_weights("vit_h", file=None, source="auto", yes=True)
    assert "2.6 GB" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    monkeypatch.setattr(confirm.typer, "confirm", lambda text, abort, err: questions.append(text))
    questions: list[str] = []
    confirm.confirm_weights("vit_l", file=None, source="auto", yes=False)
    assert len(questions) == 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "sam_vit_h_4b8939.pth").touch()
    confirm.confirm_weights("vit_h", file=None, source="auto", yes=False)


def test_errors_come_before_the_question(tmp_path, monkeypatch, capsys):
    """Options that exclude each other, without a source."""
    monkeypatch.chdir(tmp_path)
    for words, text in (
        (["--masks-from", "lr", "--degradation", "blind"], "needs --degradation bicubic"),
        (["--workers", "1", "--dask", "tcp://x"], "leave one of them out"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["prepare", *words])
        assert text in capsys.readouterr().err


def test_info_does_not_load_pytorch(tmp_path):
    """It starts in well under a second."""
    make_store(tmp_path / "a.zarr", n=12)
    code = (
        "import sys; from samdiff.cli import main\n"
        "try: main(['info', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end\n"
        "assert 'torch' not in sys.modules and 'dask' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.zarr")], check=True, capture_output=True)
