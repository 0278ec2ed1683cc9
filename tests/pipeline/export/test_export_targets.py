"""Exports that are killed, meet a full disk or each other: whole or not there at all, and nobody else's file is touched."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.export import new_target, workspace
from samdiff.pipeline.export.export import export_folder, export_hdf5
from samdiff.pipeline.export.hdf5_sink import Sink
from samdiff.pipeline.export.mask_export import export_labels, export_masks
from samdiff.pipeline.shards.reader import Store, open_store
from samdiff.pipeline.shards.schema import ARRAYS, shape_of

from ...helpers.limits import largest_file, left
from ...helpers.stores import make_store

EXPORTS = {"hdf5": export_hdf5, "folder": export_folder}
ALL = {**EXPORTS, "masks": export_masks, "npz": export_labels}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(make_store(tmp_path_factory.mktemp("store") / "x.zarr", n=40))


def failure(action, *arguments) -> StoreError | None:
    try:
        action(*arguments)
    except StoreError as error:
        return error
    return None


def samdiff(*arguments: object, **more) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "samdiff.cli", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize("size", [0, 1, 96, 512, 2048, 4000, 10_000, 30_000, 60_000])
@pytest.mark.parametrize("kind", ALL)
def test_a_full_disk_leaves_nothing_and_the_message_is_true(kind, size, store, tmp_path):
    """Wherever the write fails. What the message says is done: the same command makes it all."""
    target = tmp_path / "new" / "x"
    with largest_file(size):
        error = failure(ALL[kind], store, target)
    assert (error is None) == target.exists()
    if error is not None:
        assert "limit on file sizes" in str(error)
        assert "starts again from the beginning" in str(error)
        assert left(tmp_path) == []
        ALL[kind](store, target)
    assert left(target.parent) == ["x"]


def test_hdf5_survives_any_failing_write(store, tmp_path):
    """The library is never told of a failure, so it cannot crash (it did, at exit): a process of its own, for many sizes."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from samdiff.errors import StoreError; from samdiff.pipeline.export.export import export_hdf5; "
        "from samdiff.pipeline.shards.reader import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "for size in range(0, 200_000, 1500):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "    try: export_hdf5(store, Path(sys.argv[2]) / str(size))\n"
        "    except StoreError: pass\n"
        "    else: break\n"
        "print(size)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.place.root, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 10_000
    assert left(tmp_path) == [done.stdout.strip()]
    with h5py.File(tmp_path / done.stdout.strip()) as file:
        np.testing.assert_array_equal(file["tiles/hr"][:], store.read_tiles("hr", range(len(store))))


def test_what_hdf5_wrote_after_an_error_it_can_read(tmp_path):
    with Sink(tmp_path / "x") as sink, largest_file(10):
        sink.write(b"0123456789")
        sink.write(b"abc")
        sink.seek(8)
        sink.write(b"XY")
        sink.seek(0)
        assert sink.read(20) == b"01234567XYabc" + bytes(7)
        assert sink.seek(0, os.SEEK_END) == 13
        with pytest.raises(OSError, match="too large"):
            sink.check()


def test_ctrl_c_waits_for_hdf5(tmp_path):
    with Sink(tmp_path / "x") as sink:
        signal.raise_signal(signal.SIGINT)  # to this very thread; os.kill may take another one, and be late
        sink.write(b"a")
        with pytest.raises(KeyboardInterrupt):
            sink.check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


KILLED = """
import os, signal, sys
from pathlib import Path
from samdiff.pipeline.export import export, hdf5_sink, new_target
from samdiff.pipeline.shards.reader import open_store
_, kind, store, target, at = sys.argv
left = [int(at)]
def dying(real):
    def call(*arguments, **more):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)
    return call
export.write_new = dying(export.write_new)
hdf5_sink.Sink.write = dying(hdf5_sink.Sink.write)
new_target._move = dying(new_target._move)
(export.export_hdf5 if kind == "hdf5" else export.export_folder)(open_store(store), Path(target))
"""


@pytest.mark.parametrize("kind", EXPORTS)
def test_killed_exports_block_nothing_and_are_swept(kind, store, tmp_path):
    """`kill -9` at several writes and at the last move; then an export to another name clears up, and the same one works."""
    (tmp_path / "mine.txt").write_text("mine")
    last = 3 * len(store) + 5 if kind == "folder" else 31
    for at in (5, last):
        words = [sys.executable, "-c", KILLED, kind, store.place.root, tmp_path / "x", str(at)]
        assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
        assert len(left(tmp_path)) == 2
        assert not (tmp_path / "x").exists()
    export_hdf5(store, tmp_path / "y")
    assert left(tmp_path) == ["mine.txt", "y"]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    EXPORTS[kind](store, tmp_path / "x")
    assert left(tmp_path) == ["mine.txt", "x", "y"]


def test_without_locks_nothing_of_others_is_swept(store, tmp_path, monkeypatch, caplog):
    """Another export may be at work there; the leftover is named instead."""
    monkeypatch.setattr(workspace, "_lock", lambda _: None)
    other = tmp_path / ".samdiff-export-0123456789abcdef"
    (other / "new").mkdir(parents=True)
    export_hdf5(store, tmp_path / "x.h5")
    assert left(tmp_path) == [other.name, "x.h5"]
    assert f"delete {other.name} if its export was killed" in caplog.text


def test_what_is_not_ours_is_never_swept(store, tmp_path):
    """A folder of such a name with something else in it, and a link."""
    mine = tmp_path / ".samdiff-export-0123456789abcdef"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    (tmp_path / ".samdiff-export-0123456789abcdee").symlink_to(mine)
    (tmp_path / ".samdiff-export-notes").mkdir()
    before = left(tmp_path)
    export_hdf5(store, tmp_path / "x.h5")
    assert left(tmp_path) == [*before, "x.h5"]
    assert (mine / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("kind", ALL)
def test_existing_targets_are_refused(kind, store, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "full", "link"):
        with pytest.raises(ConfigError, match="exists already|got a folder"):
            ALL[kind](store, tmp_path / name)
    for where in (store.place.root / "x", store.place.root, store.place.root / "tiles" / "hr" / "x"):
        with pytest.raises(ConfigError, match="in the store"):
            ALL[kind](store, where)
    with pytest.raises(ConfigError, match="got a URL"):
        ALL[kind](store, Path("s3://bucket/x"))
    with pytest.raises(StoreError, match="cannot be written"):
        ALL[kind](store, tmp_path / "file" / "x")
    for name in ("x" * 256, "x\0y"):
        with pytest.raises(ConfigError, match="cannot be a file or folder here"):
            ALL[kind](store, tmp_path / name)
    assert left(tmp_path) == ["file", "full", "link"]
    assert [path.read_text() for path in (tmp_path / "file", tmp_path / "full" / ".hidden")] == ["mine", "mine"]
    ALL[kind](store, tmp_path / ("x" * 255))


def test_too_little_space_is_said_beforehand(store, tmp_path, monkeypatch):
    monkeypatch.setattr(new_target.shutil, "disk_usage", lambda _: SimpleNamespace(free=40 * 24 * 24 * 4))
    with pytest.raises(StoreError, match="needs more than 0.1 MB, but 0.1 MB are free"):
        export_folder(store, tmp_path / "x")
    assert left(tmp_path) == []


def test_an_unreadable_store_is_not_called_an_unwritable_target(tmp_path):
    made = open_store(make_store(tmp_path / "x.zarr"))
    shard = next(path for path in (made.place.root / "tiles" / "hr").rglob("*") if path.is_file() and path.name != "zarr.json")
    shard.unlink()
    shard.mkdir()
    with pytest.raises((OSError, StoreError)) as raised:
        export_folder(made, tmp_path / "out")
    assert str(shard) in str(raised.value)
    assert left(tmp_path) == ["x.zarr"]


def test_the_command_says_it(store, tmp_path):
    """Status 1 and one line for a full disk, status 2 for a file that exists; no crash."""
    target = tmp_path / "x.h5"
    done = samdiff(
        "export", store.place.root, target, "--to", "hdf5",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "starts again from the beginning" in done.stderr
    assert samdiff("export", store.place.root, target, "--to", "hdf5").returncode == 0
    with h5py.File(target) as file:
        assert json.loads(file.attrs["samdiff"]) == store.attrs
        assert {spec.path: file[spec.path].shape for spec in ARRAYS} == {s.path: shape_of(s, store.sizes) for s in ARRAYS}
    assert samdiff("export", store.place.root, target, "--to", "hdf5").returncode == 2
