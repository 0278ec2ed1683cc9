"""What reaches a terminal: no name, note or argument from outside moves its cursor, and no encoding or closed pipe ends in a traceback."""

import logging
import zipfile
from pathlib import Path

import pytest

from samdiff.cli import main
from samdiff.model.evaluation.evaluate import as_markdown
from samdiff.pipeline.shards.reader import Store

from ..helpers import faults
from ..helpers.hostile_text import FORGED, HOSTILE, assert_harmless
from ..helpers.models import write_model
from ..helpers.stores import make_store
from ..pipeline.prepare.test_prepare import position_image, write


def in_process(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command without the seconds that a new process takes: status, stdout, stderr with the log."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []  # pytest's would keep ours away
    try:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
    finally:
        root.handlers = before
    reported = capsys.readouterr()
    return int(stopped.value.code or 0), reported.out, reported.err


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

    def init(self, place, attributes, *rest, **more):
        real(self, place, attributes, *rest, **more)
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


def test_tables_keep_their_rows():
    """A benchmark is named by its folder."""
    table = as_markdown({(HOSTILE + FORGED, "diffusion"): {"psnr_y": (30.0, float("nan"))}})
    assert len(table.splitlines()) == 3
    assert_harmless(table)
