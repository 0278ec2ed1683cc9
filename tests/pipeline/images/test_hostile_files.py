"""What only looks like a file: pipes, devices, sockets; sparse files; names that cannot be."""

import os
import socket

import pytest

from samdiff.errors import ConfigError, ImageError
from samdiff.model.evaluation.benchmark import read_pairs
from samdiff.model.inference.batch import list_inputs
from samdiff.model.inference.image_io import open_image, read_image_file
from samdiff.pipeline.images.sources import list_source
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.storage.regular import open_regular, read_regular

from ...helpers.damaged_files import quickly
from ...helpers.zoo import RGB, NoMasks, file_of, photo

pytestmark = pytest.mark.filterwarnings("ignore:")  # Pillow's remarks on what is damaged
PNG = file_of(RGB, "PNG")
GB = 10**9


@pytest.fixture
def odd_files(tmp_path):
    """A folder with a good image and a pipe, a socket, a device, a folder and a dangling link, all named like images."""
    (tmp_path / "good.png").write_bytes(file_of(photo(64, 64), "PNG"))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    here = os.getcwd()
    os.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        os.chdir(here)
        yield tmp_path


REASONS = {
    "pipe.png": "a named pipe",
    "endless.png": "a device",
    "socket.png": "a socket",
    "folder.png": "a folder",
    "nowhere.png": "a dangling link",
}


def test_prepare_lists_what_is_no_file(odd_files, tmp_path_factory):
    """Each with its reason, in no time; the good image is used."""
    out = tmp_path_factory.mktemp("out") / "a.zarr"
    with quickly():
        report = prepare(odd_files, out, NoMasks(), PrepareConfig(tile=64))
    assert report.tiles == 1
    assert set(report.skipped) == set(REASONS)
    for name, says in REASONS.items():
        assert says in report.skipped[name]


def test_the_other_commands_do_not_wait_for_a_pipe(odd_files):
    """infer, compare, evaluate and masks read through these."""
    for name, says in REASONS.items():
        with quickly(), pytest.raises(ImageError) as caught:
            open_image(odd_files / name)
        assert says in str(caught.value) or "no such file" in str(caught.value)
    inputs = [path.name for path in list_inputs([odd_files], "_x4")]
    assert inputs == [
        "endless.png",
        "folder.png",
        "good.png",
        "nowhere.png",
        "pipe.png",
        "socket.png",
    ]  # each will be told with its reason
    assert "pipe.png" in [path.name for path in list_inputs([str(odd_files / "p*.png")], "_x4")]
    with quickly(), pytest.raises(ImageError, match="a named pipe|a device|a folder"):
        read_pairs(odd_files, 4)
    with quickly(), pytest.raises(ImageError, match="not a file: a named pipe has this name"):
        list_source(odd_files / "pipe.png")


def test_a_pipe_in_place_of_a_file_after_the_look(tmp_path, monkeypatch):
    """What was looked at is not what is opened: it is looked at again, and opening did not wait."""
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(PNG)
    real = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, **more: real(tmp_path / "b.png" if str(path).endswith("a.png") else path, **more)
    )
    with quickly(), pytest.raises(OSError, match="a named pipe"):
        open_regular(tmp_path / "a.png")


def test_a_file_that_grows_is_read_no_further(tmp_path, monkeypatch):
    """Its size is asked before, its bytes are counted."""
    (tmp_path / "a.png").write_bytes(bytes(100))
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "a.png", 99)
    real = os.fstat
    small = os.stat_result((*real(os.open(tmp_path / "a.png", os.O_RDONLY))[:6], 10, 0, 0, 0))
    monkeypatch.setattr("samdiff.pipeline.storage.regular.os.fstat", lambda _: small)
    monkeypatch.setattr("samdiff.pipeline.storage.regular.os.stat", lambda _: small)
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "a.png", 99)


def test_a_sparse_file_is_told_unread(tmp_path, monkeypatch):
    """30 GB that take no disk, beside a good image: that file's reason, and not one byte of it is read."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.png").write_bytes(file_of(photo(64, 64), "PNG"))
    with open(source / "sparse.png", "wb") as file:
        file.truncate(30 * GB)
    with quickly():
        report = prepare(source, tmp_path / "a.zarr", NoMasks(), PrepareConfig(tile=64))
    assert "30000 MB, more than the 1617 MB that an image may have" in report.skipped["sparse.png"]
    with quickly(), pytest.raises(ImageError, match=r"sparse.png.*30000 MB, more than the 417 MB"):
        read_image_file(source / "sparse.png")


def test_odd_words_for_a_source(tmp_path):
    """An unknown home, NUL, a name that is too long: one error each."""
    for source in ("~nobody-of-this-name/x", "a\0b", "x" * 5000, str(tmp_path / ("y" * 300))):
        with pytest.raises((ImageError, ConfigError)):
            list_source(source)
        with pytest.raises(ImageError):
            open_image(type(tmp_path)(source))


def test_a_folder_that_cannot_be_looked_into_is_listed(tmp_path, monkeypatch):
    """Once it was left out without a word."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def guarded(path):
        if str(path).endswith("closed"):  # tests may run as root
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ImageError, match="closed: cannot be read: Permission denied"):
        list_source(tmp_path / "closed")
    found = {picture.name: picture.problem for picture in list_source(tmp_path)}
    assert found == {"a.png": "", "closed (folder)": "a folder that cannot be read: Permission denied"}
