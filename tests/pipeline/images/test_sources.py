"""Folders, zips and tars with everything that real ones hold; and a whole run over a zoo of bad files."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from samdiff import open_store
from samdiff.cli import main
from samdiff.errors import ImageError
from samdiff.pipeline.images.decode import decode_rgb, read_rgb
from samdiff.pipeline.images.sources import SourceReader, list_source
from samdiff.pipeline.masks import generator as masks
from samdiff.pipeline.prepare.run import PrepareConfig, prepare

from ...helpers.zoo import RGB, ZOO, NoMasks, file_of, photo

pytestmark = pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated File|Tag data)")  # Pillow's remarks on bad TIFF

PNG = file_of(RGB, "PNG")


def names(source):
    return [picture.name for picture in list_source(source)]


def as_zip(path, members, **more):
    with zipfile.ZipFile(path, "w", **more) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def as_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


MEMBERS = [(f"{folder}/{name}", file_of(photo(20, 30, k), "PNG")) for k, (folder, name) in enumerate(
    [("a", "1.png"), ("b", "1.png"), ("b", "with space.png"), ("ünï", "写真 ✓.png"), ("deep/er", "X.PNG")]
)]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("folder", ""), ("zip", ""), ("stored", ""), ("tar", "w"), ("tgz", "w:gz"), ("tbz", "w:bz2"), ("txz", "w:xz")],
)
def test_the_same_pictures_from_a_folder_and_from_archives(kind, mode, tmp_path):
    """Names with spaces and Unicode, the same name in two subfolders, other files ignored; nothing is unpacked."""
    source = tmp_path / f"source {kind}"
    members = [*MEMBERS, ("b/notes.txt", b"text"), ("__MACOSX/b/._1.png", b"fork"), (".hidden/1.png", PNG)]
    if kind == "folder":
        for name, data in members:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(data)
    elif mode:
        as_tar(source, members, mode)
    else:
        as_zip(source, members, compression=zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED)
    found = list_source(source)
    assert [picture.name for picture in found] == sorted(name for name, _ in MEMBERS)
    by_name = dict(MEMBERS)
    with SourceReader() as source_reader:
        for picture in reversed(found):
            assert np.array_equal(
                read_rgb(picture, source_reader=source_reader).pixels, decode_rgb(by_name[picture.name], "a.png").pixels
            )
    assert sorted(path.name for path in tmp_path.iterdir()) == [source.name]


def test_archive_names_cannot_lead_out(tmp_path):
    """Roots, drives and `..` go; a name that then occurs twice is numbered; links are followed inside the archive only."""
    hostile = [("../../evil.png", PNG), ("/abs.png", PNG), ("C:\\win.png", PNG), ("a/../evil.png", PNG)]
    assert names(as_zip(tmp_path / "a.zip", hostile)) == ["a/evil.png", "abs.png", "evil.png", "win.png"]
    twice = [("a.png", PNG), ("../a.png", PNG)]
    assert names(as_zip(tmp_path / "b.zip", twice)) == ["a.png", "a.png (2)"]
    links = []
    for name, target in (("in.png", "real.png"), ("out.png", "/etc/passwd"), ("up.png", "../../etc/passwd")):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        links.append((info, b""))
    pictures = {p.name: p for p in list_source(as_tar(tmp_path / "c.tar", [("real.png", PNG), *links]))}
    assert np.array_equal(read_rgb(pictures["in.png"]).pixels, RGB)
    for name in ("out.png", "up.png"):
        with pytest.raises(ImageError, match="not a regular file in the archive"):
            read_rgb(pictures[name])


def test_damaged_archives(tmp_path):
    """Cut off: a clear error, or (tar) the images before the cut and one entry that says so; a flipped byte is found by its checksum."""
    whole = as_zip(tmp_path / "a.zip", MEMBERS).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-50])
    with pytest.raises(ImageError, match="cannot be opened as a zip or tar"):
        list_source(tmp_path / "cut.zip")
    place = whole.index(MEMBERS[0][1]) + 60
    (tmp_path / "flip.zip").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ImageError, match="cannot be read: Bad CRC"):
        read_rgb(list_source(tmp_path / "flip.zip")[0])
    tar = as_tar(tmp_path / "a.tar", MEMBERS).read_bytes()
    (tmp_path / "cut.tar").write_bytes(tar[: len(tar) // 3])
    problems = []
    for picture in list_source(tmp_path / "cut.tar"):
        try:
            read_rgb(picture)
        except ImageError as error:
            problems.append(str(error))
    assert problems
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ImageError, match="expected an image"):
        list_source(tmp_path / "text.zip")
    with pytest.raises(ImageError, match="no such file or folder"):
        list_source(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.png")  # is there, so the message must not say that it is not
    with pytest.raises(ImageError, match="a named pipe has this name"):
        list_source(tmp_path / "pipe.png")


def test_several_sources_are_one(tmp_path):
    """In the order of their names; a clash is numbered."""
    first = as_zip(tmp_path / "a.zip", [("z.png", PNG), ("m.png", PNG)])
    second = as_zip(tmp_path / "b.zip", [("b.png", PNG), ("m.png", PNG)])
    assert names([first, second]) == ["b.png", "m.png", "m.png (2)", "z.png"]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A folder with four good images, the zoo, and what only a folder can hold; returns it and the expected reasons."""
    folder = tmp_path / "zoo"
    expected = {}
    for k, name in enumerate(("good.png", "sub/good.png", "sub/ü b.jpg", "zz.webp")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name.rsplit(".")[-1]]
        (folder / name).write_bytes(file_of(photo(64 + k, 70, k), kind))
    for name, (data, says) in ZOO.items():
        name = name if "." in name else f"{name}.png"
        (folder / name).write_bytes(data)
        expected[name] = says
    (folder / "empty too.png").write_bytes(b"")
    (folder / "one pixel.png").write_bytes(file_of(RGB[:1, :1], "PNG"))
    (folder / "thin.png").write_bytes(file_of(np.zeros((1, 5000, 3), np.uint8), "PNG"))
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "folder.png").mkdir()
    (folder / "secret.png").write_bytes(PNG)
    os.mkfifo(folder / "pipe.png")
    expected |= {
        "empty too.png": "0 bytes",
        "one pixel.png": "smaller than a tile: 1 x 1",
        "thin.png": "smaller than a tile: 5000 x 1",
        "nowhere.png": "a dangling link",
        "folder.png": "not a file",
        "secret.png": "cannot be read: Permission denied",
        "pipe.png": "not a file",
    }
    real = os.open

    def guarded(path, *more, **options):
        if str(path).endswith("secret.png"):  # tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *more, **options)

    monkeypatch.setattr(os, "open", guarded)
    return folder, expected


def test_a_whole_run_over_the_zoo(zoo, tmp_path, monkeypatch, capsys, caplog):
    """Each bad file is skipped and reported with its reason, and listed in the store; the others are used; status 3."""
    folder, expected = zoo
    monkeypatch.setattr(masks, "MaskGenerator", lambda *_, **__: NoMasks())
    out = tmp_path / "zoo.zarr"
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", str(folder), "--out", str(out), "--tile", "64", "--sam", "mobile_sam"])
    assert stopped.value.code == 3
    assert "4 images, 8 tiles" in capsys.readouterr().out
    skipped = open_store(out).skipped()
    assert set(skipped) == set(expected)
    for name, says in expected.items():
        assert says in skipped[name], name
        assert f"skipped {name}: {skipped[name]}" in caplog.text
    assert len(skipped) >= 40
    with pytest.raises(SystemExit) as stopped:  # nothing to do, and it still says what is missing
        main(["prepare", str(folder), "--out", str(out), "--tile", "64", "--sam", "mobile_sam"])
    assert stopped.value.code == 3
    assert "is already complete" in capsys.readouterr().out


def test_strict_stops_at_the_first(zoo, tmp_path):
    """In the order of the source, and says how to go on."""
    folder, expected = zoo
    first = min(expected)
    with pytest.raises(ImageError) as caught:
        prepare(folder, tmp_path / "x.zarr", NoMasks(), PrepareConfig(tile=64), strict=True)
    assert str(caught.value).startswith(f"{first}: ")
    assert expected[first] in str(caught.value)
    assert "leave out --strict" in str(caught.value)
