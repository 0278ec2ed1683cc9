"""The stream that all output goes through: any encoding, a reader who left, progress bars, faults of others."""

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from samdiff import runtime
from samdiff.cli import main
from samdiff.commands.common import finish, print_result, print_status
from samdiff.commands.terminal import VisibleFormatter, VisibleStream, visible_output

from ..helpers.hostile_text import FORGED, HOSTILE, assert_harmless


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setenv("SAMDIFF_QUIET", "")


@pytest.mark.parametrize(
    ("encoding", "errors"),
    [("ascii", "strict"), ("ascii", "surrogateescape"), ("latin-1", "strict"), ("utf-8", "surrogateescape")],
)
def test_no_encoding_ends_in_a_traceback(encoding, errors, monkeypatch):
    """Help with typographic characters and a hostile name in an error, as `PYTHONIOENCODING` and the C locale set the streams."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    for words in (["train", "--help"], ["prepare", "--help"], ["info", HOSTILE], ["download"]):
        with pytest.raises(SystemExit):
            main(words)
    written = [stream.buffer.getvalue() for stream in streams]
    assert all(written)
    assert_harmless(*(text.decode(encoding) for text in written))


def test_a_strict_c_locale():
    """The same in a process of its own."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONIOENCODING", "LC_ALL", "LANG", "PYTHONUTF8")}
    where = {**clean, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    words = [sys.executable, "-m", "samdiff.cli", "download", os.fsencode(HOSTILE)]
    done = subprocess.run(words, capture_output=True, check=False, env=where)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"samdiff: ")
    assert_harmless(done.stderr.decode("ascii"))


def test_a_closed_stdout_ends_quietly():
    """`samdiff download | head -0`: nothing on stderr, by us or by the interpreter's last flush."""
    command = [sys.executable, "-m", "samdiff.cli", "download"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        reported = process.stderr.read()
    assert (process.returncode, reported) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_stdout_that_is_full_is_one_line():
    with open("/dev/full", "wb") as full:
        words = [sys.executable, "-m", "samdiff.cli", "download"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"samdiff: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(("words", "status"), [("download >&- 2>&-", 0), ("download none 2>&-", 2)])
def test_streams_that_were_closed_before_the_start(words, status):
    """As a daemon may do."""
    done = subprocess.run(f'"{sys.executable}" -m samdiff.cli {words}', shell=True, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_closed_stdout_is_nobody_elses_trouble():
    """It must not be taken for an unreadable file by code that catches `OSError`; a closed stderr stops nothing."""
    with pytest.raises(SystemExit):
        VisibleStream(Broken(), ends=True).write("a")
    VisibleStream(Broken(), ends=False).write("a")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bars_move_on_a_terminal_and_names_do_not(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with visible_output():
        bar = runtime.progress(range(3), desc=HOSTILE + FORGED)
        list(bar)
        sys.stderr.write("\n\x1b[A")
        sys.stderr.write("\x1b[A forged")
        sys.stderr.write("a\rb")
    written = screen.getvalue()
    assert_harmless(written.replace("\r", "").replace("\n\x1b[A", ""))
    assert "\ra" not in written
    assert r"a\rb" in written
    assert r"\x1b[A forged" in written
    assert "\r" in written


def test_lines_cannot_be_forged(capsys):
    """A name with a line feed stays on its line in results, skipped files and logs; a message of ours keeps its lines."""
    print_result(f"one {FORGED}", "two")
    print_status(FORGED)
    with pytest.raises(typer.Exit):
        finish({FORGED: FORGED})
    reported = capsys.readouterr()
    assert reported.out.splitlines() == [r"one x\nsamdiff: all is well\nWARNING ", "two", r"x\nsamdiff: all is well\nWARNING "]
    assert_harmless(reported.out, reported.err)
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "%s", (HOSTILE + FORGED,), None)
    line = VisibleFormatter("%(levelname)s %(message)s").format(record)
    assert_harmless(line)
    assert len(line.splitlines()) == 1


def test_warnings_of_libraries_and_faults_of_ours(capsys, monkeypatch):
    """Both are printed by others, and are visible all the same."""

    def fault(*_: object) -> None:
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "f.py", 1))
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("samdiff.pipeline.shards.reader.open_store", fault)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as raised:
        main(["info", "x"])
    sys.excepthook(RuntimeError, raised.value, raised.value.__traceback__)
    reported = capsys.readouterr()
    assert "UserWarning" in reported.err
    assert "Traceback" in reported.err
    assert_harmless(reported.out, reported.err)
