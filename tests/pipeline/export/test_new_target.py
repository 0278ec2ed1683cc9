"""New files and folders: two writers at once, somebody else's file made meanwhile, the ONNX files."""

import threading
import time
from pathlib import Path

import pytest

from samdiff.errors import BusyError, ConfigError, StoreError
from samdiff.model.config import load_config
from samdiff.model.export.onnx_export import FILES, export_onnx
from samdiff.pipeline.export.export import export_folder, export_hdf5
from samdiff.pipeline.export.new_target import new_file, new_files, new_folder
from samdiff.pipeline.shards.reader import Store, open_store

from ...helpers.limits import largest_file, left
from ...helpers.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(make_store(tmp_path_factory.mktemp("store") / "x.zarr", n=40))


def test_an_empty_folder_is_filled_and_stays_the_same_folder(store, tmp_path, monkeypatch):
    """It may be a mounted disk, or the current folder."""
    (tmp_path / "out").mkdir(mode=0o750)
    before = (tmp_path / "out").stat()
    monkeypatch.chdir(tmp_path / "out")
    export_folder(store, Path())
    assert (tmp_path / "out").stat().st_ino == before.st_ino
    assert left(tmp_path / "out") == ["E_SAM", "HR", "LR", "masks", "meta_info.txt"]


def test_a_file_made_meanwhile_by_somebody_else_stays(store, tmp_path):
    def file() -> None:
        with new_file(tmp_path / "x", "test") as path:
            path.write_text("ours")
            (tmp_path / "x").write_text("theirs")

    def folder() -> None:
        with new_folder(tmp_path / "y", "test"):
            (tmp_path / "y").mkdir()
            (tmp_path / "y" / "z").write_text("theirs")

    def files() -> None:
        with new_files(tmp_path, ["a", "b"], "test") as new:
            (new / "a").write_text("ours")
            (new / "b").write_text("ours")
            (tmp_path / "b").write_text("theirs")

    for made, error in ((file, ConfigError), (folder, StoreError), (files, ConfigError)):
        with pytest.raises(error, match="another process|not empty"):
            made()
    assert left(tmp_path) == ["b", "x", "y"]
    assert [(tmp_path / name).read_text() for name in ("b", "x", "y/z")] == ["theirs"] * 3


def test_two_exports_to_one_target(store, tmp_path):
    """The second is refused and says so, also for the same file by another path; one to another name is not disturbed."""
    with new_file(tmp_path / "x", "samdiff export") as path:
        path.write_text("first")
        (tmp_path / "again").symlink_to(tmp_path)
        for target in (tmp_path / "x", tmp_path / "again" / "x"):
            with pytest.raises(BusyError, match="another `samdiff export` is writing it"):
                export_hdf5(store, target)
        export_folder(store, tmp_path / "y")
    assert (tmp_path / "x").read_text() == "first"
    assert left(tmp_path) == ["again", "x", "y"]


def test_many_exports_to_one_target_at_once(tmp_path):
    """Threads, whose locks are as apart as those of processes: one wins, the rest are refused, the file is whole."""
    found: list[object] = []

    def write(number: int) -> None:
        try:
            with new_file(tmp_path / "x", "test") as path:
                path.write_text(str(number) * 1000)
                time.sleep(0.02)
            found.append(number)
        except (BusyError, ConfigError) as error:
            found.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for number in found if isinstance(number, int))
    assert (tmp_path / "x").read_text() == str(winner) * 1000
    assert (len(found), left(tmp_path)) == (8, ["x"])


class _Tiny:
    """What `export_onnx` asks of a model, without a network: the writing is replaced."""

    config = load_config("tiny")


@pytest.fixture
def onnx_writer(monkeypatch):
    pytest.importorskip("onnxscript")

    def write(_: object, files: list[Path]) -> None:
        for file in files:
            file.write_bytes(b"new" * 2000)

    monkeypatch.setattr("samdiff.model.export.onnx_export._write", write)


def test_onnx_files_come_together_and_replace_nothing(onnx_writer, tmp_path):
    """A new folder, a folder with other things, files that exist, `--overwrite`, a full disk."""
    made = export_onnx(_Tiny(), tmp_path / "new")
    assert [path.name for path in made] == list(FILES) == [path.name for path in made if path.stat().st_size == 6000]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "denoiser.onnx").write_text("mine")
    (tmp_path / "old" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="denoiser.onnx: exists already; give --overwrite"):
        export_onnx(_Tiny(), tmp_path / "old")
    with pytest.raises(StoreError, match="starts again from the beginning"), largest_file(3000):
        export_onnx(_Tiny(), tmp_path / "old", overwrite=True)
    assert left(tmp_path / "old") == ["denoiser.onnx", "thesis.tex"]
    assert (tmp_path / "old" / "denoiser.onnx").read_text() == "mine"
    export_onnx(_Tiny(), tmp_path / "old", overwrite=True)
    assert left(tmp_path / "old") == sorted([*FILES, "thesis.tex"])
    assert (tmp_path / "old" / "thesis.tex").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is not a folder"):
        export_onnx(_Tiny(), tmp_path / "file")


def test_a_place_that_takes_no_folder_ends(store):
    """`mkdir` says there that nothing exists, as if another process had deleted the workspace: it must not be tried for ever."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no such place here")
    for export in (export_folder, export_hdf5):
        with pytest.raises(StoreError, match="/proc/x: cannot be written"):
            export(store, Path("/proc/x"))


def test_the_home_folder_is_meant_by_its_sign(store, tmp_path, monkeypatch):
    """`--out=~/x` reaches us as it is; no folder of the name `~` is made."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_folder(store, Path("~/a"))
    export_hdf5(store, Path("~/b.h5"))
    assert left(tmp_path / "here") == []
    assert left(tmp_path / "home") == ["a", "b.h5"]
    with pytest.raises(ConfigError, match="no such user"):
        export_folder(store, Path("~nobody-of-this-name/a"))


def test_a_folder_that_a_file_manager_looked_at_is_empty(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.DS_Store").write_bytes(b"theirs")
    export_folder(store, tmp_path / "out")
    assert left(tmp_path / "out") == [".DS_Store", "E_SAM", "HR", "LR", "masks", "meta_info.txt"]
    assert (tmp_path / "out/.DS_Store").read_bytes() == b"theirs"
