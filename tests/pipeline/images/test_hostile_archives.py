"""Archives that are meant to hurt: endless, shared, with headers that lie; and hundreds of damaged ones."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.images import archives
from samdiff.pipeline.images.decode import Limits, read_rgb
from samdiff.pipeline.images.sources import SourceReader, list_source
from samdiff.pipeline.prepare.run import PrepareConfig
from samdiff.pipeline.prepare.scan import scan

from ...helpers.damaged_files import archive_zoo, fuzz, quickly, read_archive
from ...helpers.zoo import RGB, file_of

pytestmark = pytest.mark.filterwarnings("ignore:")  # Pillow's remarks on what is damaged
PNG = file_of(RGB, "PNG")
GB = 10**9


def shared_zip(path, entries, size):
    """A zip whose entries all have the same bytes: zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("0000.png", "w", force_zip64=False) as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
        info = archive.infolist()[0]
        for number in range(1, entries):
            other = zipfile.ZipInfo(f"{number:04}.png")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, name, getattr(info, name))
            archive.filelist.append(other)
        archive._didModify = True
    path.write_bytes(buffer.getvalue())
    return path


def test_a_zip_whose_entries_share_their_bytes(tmp_path):
    """All but one are listed with the reason, unread."""
    path = shared_zip(tmp_path / "a.zip", 2000, 8 << 20)
    with quickly():
        found = scan(path)
    problems = [item.image_file.problem for item in found]
    assert len(found) == 2000
    assert sum("shares its bytes" in problem for problem in problems) == 1999


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch, capsys):
    """Told with the option; a tar of hard links likewise; images that are too large by themselves do not count."""
    members = [(f"{k}.png", bytes(1 << 20)) for k in range(30)]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(SourceReader, "chunks", lambda *_: pytest.fail("read"))
    with pytest.raises(ImageError, match=r"a.zip: its images unpack to 0.0 GB, more than 0.02 GB; raise --max-archive-gb"):
        scan(path, limits=Limits(max_archive_gb=0.02))
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        info = tarfile.TarInfo("first.png")
        info.size = 1 << 20
        archive.addfile(info, io.BytesIO(bytes(1 << 20)))
        for k in range(29):
            link = tarfile.TarInfo(f"{k}.png")
            link.type, link.linkname = tarfile.LNKTYPE, "first.png"
            archive.addfile(link)
    with pytest.raises(ImageError, match="--max-archive-gb"):
        scan(tmp_path / "b.tar", limits=Limits(max_archive_gb=0.02))
    monkeypatch.undo()
    with pytest.raises(SystemExit) as stopped:
        main(
            ["prepare", str(path), "--out", str(tmp_path / "o"), "--sam", "mobile_sam", "--dry-run", "--max-archive-gb", "0.02"]
        )
    assert stopped.value.code == 1
    assert "more than 0.02 GB; raise --max-archive-gb" in capsys.readouterr().err
    assert len(scan(path, limits=Limits(max_archive_gb=0.04))) == 30
    assert len(scan(path, limits=Limits(max_megapixels=0.001, max_archive_gb=0.04))) == 30
    with pytest.raises(ConfigError, match="max_archive_gb"):
        Limits(max_archive_gb=0)


def test_the_bound_on_archives_does_not_change_a_store(tmp_path):
    """Its settings and fingerprint are those of 0.1."""
    attributes = [PrepareConfig(limits=Limits(max_archive_gb=gb)).as_attributes({})["limits"] for gb in (1, 2)]
    assert attributes == [{"max_megapixels": 200.0}] * 2


def test_a_compressed_tar_that_does_not_end(tmp_path):
    """Listing it means unpacking it: no further than the bound. Nor are images read in an order that unpacks it again for each."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, size in (("z.bin", 1 << 20), *((f"{99 - k}.png", 1000) for k in range(40))):
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    with pytest.raises(ImageError, match=r"unpacks to more than 0.0005 GB; raise --max-archive-gb"):
        list_source(tmp_path / "a.tar.gz", Limits(max_archive_gb=0.0005))
    with pytest.raises(ImageError, match="whose images are not sorted by name"):
        scan(tmp_path / "a.tar.gz", limits=Limits(max_archive_gb=0.0015))
    assert len(scan(tmp_path / "a.tar.gz")) == 40


def tar_with(path, headers, name="a.png", data=PNG, mode="w"):
    """A tar of two images, the first with these pax headers as they are."""
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for member, more in ((name, headers), ("last.png", {})):
            info = tarfile.TarInfo(member)
            info.size, info.pax_headers = len(data), more
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    "headers",
    [
        {"size": "-1024"},
        {"size": "-512"},
        {"size": "99999999999999999999"},
        {"size": str(1 << 62)},
        {"size": "many"},
        {"path": "a\0b.png"},
        {"path": "../../../a.png"},
        {"path": "\udcff.png"},
        {"GNU.sparse.map": "0,-5,7"},
        {"GNU.sparse.map": "a,b"},
        {"GNU.sparse.size": str(1 << 62), "GNU.sparse.map": "0,9"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "-1"},
        {"GNU.sparse.name": ""},
    ],
)
def test_pax_headers_that_lie(tmp_path, headers):
    """Members or reasons, never another exception, never for ever."""
    path = tar_with(tmp_path / "a.tar", headers)
    read_archive("b.tar", path.read_bytes(), tmp_path)
    read_archive("b.tar.gz", tar_with(tmp_path / "a.tar.gz", headers, mode="w:gz").read_bytes(), tmp_path)


def test_a_nul_in_a_tar_name_is_made_visible(tmp_path):
    """It would end the name elsewhere."""
    found = list_source(tar_with(tmp_path / "a.tar", {"path": "a\0b.png"}))
    assert [picture.name for picture in found] == ["a\\x00b.png", "last.png"]
    assert np.array_equal(read_rgb(found[0]).pixels, RGB)


def test_a_suffix_that_is_no_text(tmp_path):
    """Found by damage: it came into the message as it was."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.p\n\x1b[31mng"))
    with pytest.raises(ImageError) as caught:
        list_source(tmp_path / "a.tar")
    assert str(caught.value).isprintable()
    assert "1 .p\\n\\x1b[31mng" in str(caught.value)


def test_a_tar_header_that_claims_gigabytes(tmp_path):
    """A pax header's size is what tarfile reads at once: here 20 GB of a sparse file."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 20 * GB
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(21 * GB)
    with quickly(), pytest.raises(ImageError, match="a header of 2000\\d* bytes"):
        list_source(tmp_path / "a.tar")


def test_a_zip_with_a_name_that_is_not_utf8(tmp_path):
    """Said as that; a name without the mark is taken as the old code page."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ü.png", PNG)
    (tmp_path / "a.zip").write_bytes(buffer.getvalue().replace("ü".encode(), b"\xff\xfe"))
    with pytest.raises(ImageError, match="a file name in it is marked as UTF-8 but is not"):
        list_source(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(buffer.getvalue())
    found = list_source(tmp_path / "b.zip")
    local = buffer.getvalue().index("ü".encode())
    data = buffer.getvalue()
    (tmp_path / "b.zip").write_bytes(data[:local] + b"\xff\xfe" + data[local + 2 :])  # in the local header alone
    with pytest.raises(ImageError, match="not valid text"):
        read_rgb(found[0])


def test_an_archive_that_changed_since_it_was_listed(tmp_path):
    """Fewer members than before: a reason, not an IndexError."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(3):
            archive.writestr(f"{k}.png", PNG)
    found = list_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.png", PNG)
    with pytest.raises(ImageError, match="cannot be read: damaged"):
        read_rgb(found[2])


def test_a_zip_of_another_method(tmp_path):
    """Python unpacks bzip2 and LZMA in a zip without a bound on memory: 1 MiB becomes terabytes."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", bytes(1 << 24))
    with pytest.raises(ImageError, match="another method than deflate"):
        read_rgb(list_source(tmp_path / "a.zip")[0])


def test_too_many_members(tmp_path, monkeypatch):
    """Each takes memory."""
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    for name, data in (("a.zip", archive_zoo()["stored.zip"]), ("a.tar", archive_zoo()["gnu.tar"])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match="holds more than 2 files"):
            list_source(tmp_path / name)


def test_damaged_archives(tmp_path):
    """Likewise."""
    fuzz(archive_zoo(), read_archive, tmp_path, seed=0, count=300)
