"""`--json`: one document on stdout and nothing else there, whatever names and failures; tables of rich on a terminal only."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from samdiff.cli import main
from samdiff.commands.document import print_table, to_json
from samdiff.commands.models.infer import infer

from ..helpers.hostile_text import FORGED, HOSTILE, assert_harmless
from ..helpers.models import write_model
from ..helpers.stores import make_store


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setenv("SAMDIFF_QUIET", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.safetensors")


@pytest.fixture
def store(tmp_path) -> Path:
    make_store(tmp_path / "x.zarr")
    return tmp_path / "x.zarr"


def reported(capsys, *arguments: object) -> tuple[int, dict, str]:
    """Status, the document, stderr."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
    finally:
        root.handlers = before
    out, err = capsys.readouterr()
    assert out.isascii()
    assert_harmless(out, err)
    return int(stopped.value.code or 0), json.loads(out) if out else {}, err


def write_image(path: Path, side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))[1]
    path.write_bytes(made.tobytes())
    return path


def test_text_of_any_kind():
    """Exact names; bytes that are not UTF-8 as text; no NaN; ASCII without DEL."""
    text = to_json({HOSTILE: [float("nan"), float("inf"), np.float32(0.5), np.int64(3), True, None, Path("a/b"), FORGED]})
    assert text.isascii()
    assert_harmless(text)
    ((key, values),) = json.loads(text).items()
    assert key == HOSTILE.replace("\udc9b", "\\x9b")
    assert values == [None, None, 0.5, 3, True, None, "a/b", FORGED]


def test_info_and_verify(store, capsys):
    status, document, err = reported(capsys, "info", store, store, "--json")
    assert (status, err) == (0, "")
    facts = document["stores"][1]
    assert facts["store"] == str(store)
    assert facts["images"] == {"count": 3, "skipped": 0, "pixels": 1728}
    assert facts["tiles"] == {"count": 10, "hr": 24, "lr": 6, "scale": 4}
    files = [path for path in store.rglob("*") if path.is_file() and path.relative_to(store).parts[:2] == ("tiles", "hr")]
    assert facts["bytes"]["tiles/hr"] == {"on_disk": sum(path.stat().st_size for path in files), "raw": 10 * 24 * 24 * 3}
    status, document, _ = reported(capsys, "verify", "--json", store)
    assert (status, document) == (0, {"stores": [{"store": str(store), "sound": True, "deep": False, "problems": []}]})
    victim = max(files, key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1])
    status, document, _ = reported(capsys, "verify", "--json", store)
    assert status == 1
    assert not document["stores"][0]["sound"]
    assert document["stores"][0]["problems"][0].startswith("tiles/hr/")


def test_an_error_leaves_stdout_empty(tmp_path, capsys):
    status, document, err = reported(capsys, "info", "--json", tmp_path / "none.zarr")
    assert (status, document) == (1, {})
    assert err.startswith("samdiff: ")


@pytest.mark.skipif(os.name == "nt", reason="names that Windows has not")
def test_infer_with_hostile_names_and_a_bad_file(model, tmp_path, capsys):
    """Status 3; the document lists both; status lines are on stderr."""
    write_image(tmp_path / "in" / f"{HOSTILE}.png")
    (tmp_path / "in" / f"{FORGED}.png").write_text("no image")
    words = ["infer", tmp_path / "in", "-o", tmp_path / "out", "--checkpoint", model, "--steps", "2", "--json"]
    status, document, err = reported(capsys, *words)
    assert status == 3
    assert document["scale"] == 4
    written, skipped = sorted(document["images"], key=lambda image: image["status"], reverse=True)
    assert written["status"] == "written"
    assert Path(written["source"]).name == f"{HOSTILE}.png".replace("\udc9b", "\\x9b")
    assert (written["size"], written["output_size"]) == ([8, 8], [32, 32])
    assert skipped["status"] == "skipped"
    assert Path(skipped["source"]).name == f"{FORGED}.png"
    assert "no image of a known format" in skipped["reason"]
    assert " 8 x 8 -> " in err
    assert reported(capsys, *words)[1]["images"][0]["status"] in ("kept", "skipped")


def test_evaluate(model, tmp_path, capsys):
    write_image(tmp_path / "bench" / "a.png", side=32)
    words = ["evaluate", "--benchmark", tmp_path / "bench", "--checkpoint", model, "--steps", "1", "-o", tmp_path / "out"]
    status, document, err = reported(capsys, *words, "--json")
    assert status == 0, err
    files = document.pop("files")
    assert [Path(name).name for name in files] == ["figures.csv", "figures.json", "table.md"]
    assert document == json.loads(Path(files[1]).read_text())
    assert {line["method"] for line in document["summary"]} == {"bicubic", "rrdb", "samdiff"}


def test_print_config_stays_toml(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["infer", "--json", "--print-config"])
    assert "[infer]" in capsys.readouterr().out
    assert "document" not in infer.__signature__.parameters


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_tables_on_a_terminal_only(tmp_path):
    """A box of rich, escapes shown as text; plain lines in a pipe, the same as ever."""
    import pty

    place = tmp_path / f"{HOSTILE}.zarr"
    make_store(place)
    for command in ("info", "verify"):
        words = [sys.executable, "-m", "samdiff.cli", command, place]
        plain = subprocess.run(words, capture_output=True, check=True).stdout
        assert "─".encode() not in plain
        own, theirs = pty.openpty()
        child = subprocess.Popen(words, stdout=theirs, stdin=theirs, env={**os.environ, "COLUMNS": "100"})
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while part := os.read(own, 4096):
                seen += part
        os.close(own)
        assert child.wait() == 0
        assert_harmless(seen.replace(b"\r\n", b"\n"), plain)
        if command == "info":
            assert b"10 of 24 x 24 HR" in seen
            assert "─".encode() in seen
            assert plain.decode().splitlines()[1] == "  images      3 (0 skipped), 0.0 megapixels"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_table_of_evaluate_on_a_terminal(model, tmp_path, monkeypatch):
    """A box with one row per method and the cells of `table.md`, then where LR came from; hostile names in their row, nothing raw."""
    folder = tmp_path / f"{HOSTILE}[red]"
    write_image(folder / "a.png", 40)
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", "300")
    words = ["evaluate", "--benchmark", folder, "--checkpoint", model, "--steps", 1, "-o", tmp_path / "ev", "-q"]
    with contextlib.suppress(SystemExit):
        main([str(word) for word in words])
    text = shown.getvalue()
    assert_harmless(text)
    lines, table = text.splitlines(), (tmp_path / "ev" / "table.md").read_text().splitlines()
    heading, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[1] for row in rows] == ["bicubic", "rrdb", "samdiff"]
    assert cells == [heading, *rows]
    assert lines[0] == "metrics"
    assert "[red]" in cells[1][0]
    assert not [line for line in lines if line.startswith("|")]
    assert lines[-1] in table
    assert lines[-1].startswith("LR of ")


def test_a_narrow_terminal_folds_the_table(monkeypatch):
    """No cell is cut."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", "24")
    print_table("t", ("benchmark", "psnr_y"), [("a-very-long-name-of-a-benchmark", "30.123")], plain=["plain"])
    text = "".join(line.strip("│ ").split("│")[0].strip() for line in shown.getvalue().splitlines() if line.startswith("│"))
    assert "a-very-long-name-of-a-benchmark" in text
    assert "plain" not in shown.getvalue()


def test_strict_ascii(store, tmp_path):
    """With an ASCII stdout nothing fails."""
    words = [sys.executable, "-m", "samdiff.cli", "info", "--json", str(store)]
    done = subprocess.run(words, capture_output=True, check=True, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})
    assert json.loads(done.stdout)["stores"][0]["masks"]["count"] == 3


@pytest.mark.weights
def test_masks_takes_json_with_a_file_as_before(tmp_path, capsys, monkeypatch):
    """`--json FILE` of earlier releases is `--records FILE`, with a warning; a .json file in another place is an error."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    with pytest.raises(SystemExit, match="2"):
        main(["masks", "a.png", "m.json"])
    assert "`--records FILE` writes the records" in capsys.readouterr().err
    with contextlib.suppress(SystemExit):
        main(["masks", "a.png", "--points-per-side", "1", "--json", "m.json"])
    shown = capsys.readouterr()
    assert "--json m.json: taken as --records m.json" in shown.err
    assert shown.out == ""
    assert isinstance(json.loads((tmp_path / "m.json").read_text()), list)
