"""What reaches a terminal: no name, note or argument from outside moves its cursor, and no encoding or closed pipe ends in a traceback."""

import io
import logging
import os
import re
import subprocess
import sys
import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest
import typer

from samdiff import runtime
from samdiff.cli import main
from samdiff.commands.common import finish, say, show
from samdiff.commands.terminal import VisibleFormatter, VisibleStream, visible_output
from samdiff.model.evaluate import as_markdown
from samdiff.pipeline.store import Store

from . import faults
from .models import write_model
from .stores import make_store
from .test_prepare import position_image, write

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x9b31m\u202egnp.\u2066a\x7f\x08\udc9bé写"
"""Escapes that clear the screen and rename the window, C1 controls, direction marks, a surrogate: without `/` and NUL a file name."""
FORGED = "x\nsamdiff: all is well\nWARNING "
OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def assert_harmless(*texts: str | bytes) -> None:
    for text in texts:
        shown = text.decode("utf-8") if isinstance(text, bytes) else text
        found = {character for character in shown if unicodedata.category(character) in OBEYED} - {"\n"}
        assert not found, f"{found} in {shown!r}"
        assert not re.search(r"^samdiff: all is well", shown, re.MULTILINE), shown


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command without the seconds that a new process takes: status, stdout, stderr with the log."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []  # pytest's would keep ours away
    try:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
    finally:
        root.handlers = before
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setenv("SAMDIFF_QUIET", "")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A stranger's: hostile names, notes, settings."""
    path = tmp_path_factory.mktemp("store") / "x.zarr"
    make_store(path)
    return path


@pytest.fixture
def stranger(store, monkeypatch) -> Path:
    text = HOSTILE.replace("\udc9b", "") + FORGED
    monkeypatch.setattr(Store, "names", lambda self: [text + str(k) for k in range(self.n_images)])
    monkeypatch.setattr(Store, "skipped", lambda self: {text: text})
    real = Store.__init__

    def init(self, place, attributes, record=None):
        real(self, place, attributes, record)
        self.attrs = {
            **self.attrs,
            "degradation": {"name": text},
            "structure": {text: text},
            "segmenter": {"name": {text: text}},
            "software": {"samdiff": text},
            "uncompared": {"a": text},
            "counts": {**self.attrs.get("counts", {}), "images": 3, "skipped": 1, "tiles": 10, "masks": 3},
        }

    monkeypatch.setattr(Store, "__init__", init)
    return store


USAGE = [
    [HOSTILE],
    [f"--{HOSTILE}"],
    ["info", "a", HOSTILE],
    ["infer", f"--{FORGED}{HOSTILE}=3", "a"],
    ["infer", "a", "--bits", HOSTILE + FORGED],
    ["infer", "a", f"-q{HOSTILE}"],
    ["export", "a", "b", "--to", HOSTILE + FORGED],
    ["export-model", "--to", HOSTILE + FORGED],
    ["prepare", "a", "--masks-from", HOSTILE + FORGED],
    ["prepare", "a", "--device", HOSTILE + FORGED],
    ["weights", HOSTILE + FORGED],
    ["download", HOSTILE + FORGED],
    ["compare", "a.png", "--crop", HOSTILE + FORGED],
    ["masks", "a.png", "-o", HOSTILE + FORGED],
    ["publish", "a", "-o", HOSTILE + FORGED, "--licence", HOSTILE],
    ["import-checkpoint", HOSTILE + FORGED, "-o", HOSTILE],
    ["train", "--shards", HOSTILE + FORGED],
    ["train", "--shards", "x.zarr", "--preset", HOSTILE + FORGED],
    ["evaluate", "--benchmark", HOSTILE + FORGED],
    ["info", f"{HOSTILE}://x{FORGED}"],
    ["verify", f"s3{FORGED}{HOSTILE}"],
    ["prepare", HOSTILE + FORGED],
    ["infer", HOSTILE + FORGED],
]


@pytest.mark.parametrize(
    "words", USAGE, ids=lambda words: "-".join(word.split("\x1b")[0].strip("-") for word in words)[:40] or "none"
)
def test_arguments_are_repeated_visibly(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = in_process(capsys, *words)
    assert status in (1, 2)
    assert err
    assert_harmless(out, err)


def test_files_of_hostile_names_and_contents(stranger, tmp_path, monkeypatch, capsys):
    """Folders, archives, registries, checkpoints, presets, stores: many commands, one by one."""
    monkeypatch.chdir(tmp_path)
    name = HOSTILE + FORGED
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"{name}.png").write_text("no image")
    write(tmp_path / "good.png", position_image(64, 64, 1)).rename(folder / f"{name} good.png")
    clean = name.replace("\udc9b", "")
    (tmp_path / "masked").mkdir()
    write(tmp_path / "good.png", position_image(64, 64, 1)).rename(tmp_path / "masked" / f"{clean}.png")
    (tmp_path / "masked" / f"{clean}.json").write_text("[]")
    (tmp_path / "masked" / f"{clean} bad.png").write_text("no image")
    model = write_model(tmp_path / "model.safetensors")
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
        archive.writestr(f"{name}.png".replace("\udc9b", ""), b"no image")
    for broken, content in (("a.toml", f'[data."{"x" * 3}\\u001b[2J"]\nabout = "\\u001b[2J\\u202e\\nsamdiff: all is well"\n'),
                            ("b.toml", "[a\x1b[2J"), ("c.toml", f'[{"train"}]\n"\\u001b[2J" = "\\u202e"\n')):  # fmt: skip
        (tmp_path / broken).write_text(content)
    (tmp_path / f"{name}.safetensors").write_bytes(b"\x1b[2J" * 20)
    (tmp_path / f"{name}.zarr").mkdir()
    (tmp_path / f"{name}.zarr" / "zarr.json").write_text(
        '{"attributes": {"format": "\\u001b[2J", "format_version": "\\u001b"}}'
    )
    small = ["--tile", "64", "--scale", "4"]
    tried = [
        ["infer", folder, "--checkpoint", model, "--regress", "-o", "sr", "-v", "-v"],
        ["infer", folder, "--checkpoint", tmp_path / f"{name}.safetensors"],
        ["infer", folder, "--checkpoint", model, "--regress", "-o", folder / f"{name}.png"],
        ["prepare", tmp_path / "masked", "--import-masks", tmp_path / "masked", "--out", f"{name}.out.zarr", "-v", "-v", *small],
        ["prepare", tmp_path / "masked", "--import-masks", tmp_path / "masked", "--out", f"{name}.out.zarr", "--dry-run", *small],
        ["info", f"{name}.out.zarr"],
        ["export", f"{name}.out.zarr", f"{name}.out", "--to", "folder"],
        ["prepare", tmp_path / f"{name}.zip", "--import-masks", tmp_path / "masked", "--out", f"{name}.zip.zarr"],
        ["info", f"{name}.zarr"],
        ["verify", f"{name}.zarr"],
        ["info", stranger],
        ["verify", stranger, "--deep"],
        ["export", stranger, f"{name}.h5", "--to", "hdf5"],
        ["export", stranger, f"{name}.h5", "--to", "hdf5"],
        ["export", stranger, f"{name}.folder", "--to", "folder"],
        ["download", "--registry", tmp_path / "a.toml"],
        ["download", "--registry", tmp_path / "b.toml"],
        ["download", name, "--registry", tmp_path / "a.toml"],
        ["train", "--shards", stranger, "--config", tmp_path / "b.toml"],
        ["train", "--shards", stranger, "--config", tmp_path / "c.toml"],
        ["train", "--shards", stranger, "--set", name],
        ["train", "--shards", stranger, "--set", f"train.lr={name}"],
        ["train", "--shards", stranger, "--print-config", "--scale", "4"],
        ["compare", *sorted(folder.glob("*.png"))[:2], "--label", name],
        ["evaluate", "--benchmark", folder, "--checkpoint", model, "--out", f"{name}.eval"],
    ]  # fmt: skip
    for words in tried:
        status, out, err = in_process(capsys, *words)
        assert out + err, words
        assert status in (0, 1, 2, 3)
        assert_harmless(out, err)
        if words[0] == "prepare" and status == 3:
            assert "WARNING skipped" in err  # the log is among it


def test_an_http_reason_is_shown_visibly(tmp_path, monkeypatch, capsys):
    """A server's words reach a terminal as they are meant: to be read."""
    server = faults.Server()
    try:
        server.script = [reason("Gone\x1b[2J\x9b31m")] * 9
        (tmp_path / "r.toml").write_text(f'[data.evil]\nfile = "e.zip"\nurls = ["{server.url}"]\nbytes = 5\n')
        status, out, err = in_process(
            capsys, "download", "evil", "--registry", tmp_path / "r.toml", "--downloads", tmp_path / "downloads"
        )
    finally:
        server.http.shutdown()
        server.http.server_close()
    assert status == 1
    assert r"\x1b" in out + err
    assert_harmless(out, err)


def reason(text: str):
    def step(handler, outer, start):
        handler.wfile.write(f"HTTP/1.1 410 {text}\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))

    return step


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
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")


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
    show(f"one {FORGED}", "two")
    say(FORGED)
    with pytest.raises(typer.Exit):
        finish({FORGED: FORGED})
    said = capsys.readouterr()
    assert said.out.splitlines() == [r"one x\nsamdiff: all is well\nWARNING ", "two", r"x\nsamdiff: all is well\nWARNING "]
    assert_harmless(said.out, said.err)
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "%s", (HOSTILE + FORGED,), None)
    line = VisibleFormatter("%(levelname)s %(message)s").format(record)
    assert_harmless(line)
    assert len(line.splitlines()) == 1


def test_warnings_of_libraries_and_faults_of_ours(capsys, monkeypatch):
    """Both are printed by others, and are visible all the same."""

    def fault(*_: object) -> None:
        sys.stderr.write(warnings.formatwarning(HOSTILE, UserWarning, "f.py", 1))
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("samdiff.pipeline.store.open_store", fault)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(RuntimeError) as raised:
        main(["info", "x"])
    sys.excepthook(RuntimeError, raised.value, raised.value.__traceback__)
    said = capsys.readouterr()
    assert "UserWarning" in said.err
    assert "Traceback" in said.err
    assert_harmless(said.out, said.err)


def test_tables_keep_their_rows():
    """A benchmark is named by its folder."""
    table = as_markdown({(HOSTILE + FORGED, "diffusion"): {"psnr_y": (30.0, float("nan"))}})
    assert len(table.splitlines()) == 3
    assert_harmless(table)
