"""What is listed: every image by its name, none that a file server made, the same on every file system."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from samdiff.errors import ImageError
from samdiff.pipeline.images import listing
from samdiff.pipeline.images.listing import SUFFIXES, UNREAD_SUFFIXES, list_source

from ...helpers.zoo import RGB, file_of

PNG, JPEG = file_of(RGB, "PNG"), file_of(RGB, "JPEG")


def listed(source, **more):
    return {image.name: image.problem for image in list_source(source, **more)}


def fill(folder, *names, data=PNG):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


UNREAD = {
    "IMG_1.JXL": "JPEG XL, a format that samdiff does not read (.jxl)",
    "raw.dng": "camera RAW, a format that samdiff does not read (.dng)",
    "tweet.jpg_large": "not a suffix of images (.jpg_large)",
    "web.jpg?w=800": "not a suffix of images (.jpg?w=800)",
    "twice.jpg (1)": "not a suffix of images (.jpg (1))",
}
SIDECARS = ("a.txt", "a.json", "a.xmp", ".DS_Store", "Thumbs.db", "a.png~", "a.jpg.part", "README", "clip.mov")


def test_images_that_cannot_be_read_are_listed_and_sidecars_are_not(tmp_path):
    """In a folder and in an archive; a file without a suffix counts if its first bytes are an image's."""
    source = fill(tmp_path / "in", "a.png", *UNREAD, *SIDECARS, data=b"x")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.png", *UNREAD, *SIDECARS):
            archive.writestr(name, b"x")
    for found in (listed(source), listed(tmp_path / "a.zip")):
        assert found.pop("a.png") == ""
        assert found.keys() == UNREAD.keys()
        assert all(found[name].startswith(reason) for name, reason in UNREAD.items())
    fill(source, "DSC0001", data=JPEG)
    assert "no suffix" in listed(source)["DSC0001"]


def test_a_suffix_that_becomes_readable_needs_one_place(monkeypatch):
    """`SUFFIXES` goes before `UNREAD_SUFFIXES`."""
    monkeypatch.setattr(listing, "SUFFIXES", (*SUFFIXES, ".jxl"))
    assert ".jxl" in UNREAD_SUFFIXES
    assert listing._why_unread("a.jxl") == ""


@pytest.mark.parametrize(
    "folder",
    [
        "@eaDir",
        "@eaDir/a.jpg",
        ".@__thumb",
        "#recycle",
        "#RECYCLE/x",
        "$RECYCLE.BIN",
        "@Recycle",
        "lost+found",
        ".thumbnails",
        "__MACOSX",
    ]
    + ["System Volume Information", "sub/@eaDir/b.png", "#snapshot/daily", ".Trash-1000/files"],
)
def test_what_file_servers_keep_is_no_image(folder, tmp_path):
    """Not listed, not reported, and not looked into: it may be closed."""
    source = fill(tmp_path / "nas", "a.jpg", f"{folder}/SYNO_THUMB.jpg")
    assert listed(source) == {"a.jpg": ""}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", PNG)
        archive.writestr(f"{folder}/SYNO_THUMB.jpg", PNG)
    assert listed(tmp_path / "a.zip") == {"a.jpg": ""}


def test_the_order_is_that_of_names_whatever_the_disk_says(tmp_path, monkeypatch):
    """Links to a folder too: which of its names counts does not depend on the disk."""
    source = fill(tmp_path / "in", "b/2.png", "b/1.png", "a.png", "ü.png", "Z.png")
    (source / "c").symlink_to(source / "b")
    (source / "up").symlink_to(source)
    before = list(listed(source))
    assert before == ["Z.png", "a.png", "b/1.png", "b/2.png", "ü.png"]
    real = os.scandir

    class Reversed:
        def __init__(self, path):
            with real(path) as found:
                self.entries = sorted(found, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert list(listed(source)) == before


def test_a_folder_that_cannot_be_read_is_listed(tmp_path, monkeypatch):
    """By an injected error, which works for root too; a hidden one is left alone."""
    source = fill(tmp_path / "in", "mine/a.png", "theirs/b.png", ".hidden/c.png")
    real = os.scandir

    def closed(path):
        if os.path.basename(path) in ("theirs", ".hidden"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert listed(source) == {"mine/a.png": "", "theirs (folder)": "a folder that cannot be read: Permission denied"}
    with pytest.raises(ImageError, match="cannot be read: Permission denied"):
        list_source(source / "theirs")


CHILD = """
import os, sys
from samdiff.pipeline.images.listing import list_source
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
print([image.name for image in list_source(sys.argv[1])])
"""


def test_a_folder_that_cannot_be_read_without_rights():
    """In a child that dropped its rights."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # pytest's own folders are closed
        source = fill(Path(place, "in"), "mine/a.png", "theirs/b.png")
        os.chmod(source / "theirs", 0)
        try:
            done = subprocess.run([sys.executable, "-c", CHILD, str(source)], capture_output=True, text=True, check=False)
        finally:
            os.chmod(source / "theirs", 0o755)
    assert done.stdout.strip() == "['mine/a.png', 'theirs (folder)']", done.stderr


def test_subfolders_that_are_not_looked_at_are_told(tmp_path, caplog):
    """One line with their number; the recursive listing says nothing."""
    source = fill(tmp_path / "in", "a.png", "sub/b.png", "sub/deep/c.JXL", "other/d.jpg", "sub/n.txt", "@eaDir/e.jpg")
    assert listed(source, recursive=False) == {"a.png": ""}
    assert "not searched: 3 in subfolders (other, sub); add -r" in caplog.text
    caplog.clear()
    assert len(listed(source)) == 4
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    (source / "a.png").unlink()
    with pytest.raises(ImageError, match="no images.*not searched: 3 in subfolders"):
        list_source(source, recursive=False)
