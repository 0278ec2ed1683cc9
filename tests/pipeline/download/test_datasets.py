"""Data sets by name: the registry, archives fetched and counted, unpacking that cannot leave its folder, prepare from a name."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from samdiff import open_store
from samdiff.cli import main
from samdiff.commands.data.fetch import mirrors
from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.download import datasets
from samdiff.pipeline.download.datasets import archives_of, download_dataset, extract, load_registry
from samdiff.pipeline.download.fetch import DownloadError
from samdiff.pipeline.masks import generator as masks

from ...helpers.zoo import NoMasks, file_of, photo


def test_the_registry_is_complete():
    """Every entry of the published table with length, hash, number, licence and citation; Flickr2K has no published hash."""
    registry = load_registry()
    expected = {"div2k", "div2k-valid", "flickr2k", "df2k"}
    expected |= {f"div2k{part}-lr-x{scale}" for part in ("", "-valid") for scale in (2, 3, 4, 8)}
    benchmarks = {name for name, entry in registry.items() if entry.benchmark or entry.request}
    assert benchmarks == {"set5", "set14", "bsd100", "urban100", "manga109"}
    assert set(registry) == expected | benchmarks
    for name in benchmarks:
        entry = registry.pop(name)
        assert entry.images == int("".join(filter(str.isdigit, name)))
        assert entry.licence != "not stated"
        assert entry.citation
        assert all("/resolve/" in url and "/main/" not in url for url in entry.urls)  # a fixed revision
    for name, entry in registry.items():
        if name.startswith("div2k"):
            assert entry.images == (100 if "valid" in name else 800)
            assert len(entry.sha256) == 64
            assert entry.bytes > 8_000_000
            assert entry.urls == (f"https://data.vision.ee.ethz.ch/cvl/DIV2K/{entry.file}",)
        if not entry.sets:
            assert "research" in entry.licence
            assert "2017" in entry.citation
    assert len({entry.sha256 for entry in registry.values() if entry.sha256}) == 10
    assert [archive.name for archive in archives_of("df2k", registry)] == ["div2k", "flickr2k"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[data.a]\nfile = "a.zip"\nurl = ["x"]', "unknown key 'url' .did you mean 'urls'"),
        ('[data.a]\nfile = "a.zip"\nurls = "x"', "urls: expected list, got 'x'"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nbytes = "3 GB"', "bytes: expected int"),
        ('[data.a]\nfile = "a.zip"', "expected either file and urls, or sets"),
        ('[data.a]\nfile = "../a.zip"\nurls = ["x"]', "expected a name without folders"),
        ("[data]\na = 1", "expected a table, got 1"),
        ("data = 1", "got data = 1"),
        ("[[data]]\na = 1", "got data = "),
        ('[data.a]\nfile = 1\nurls = ["x"]', "file: expected str, got 1"),
        ('[data.a]\nfile = "a.zip"\nurls = [1]', "urls: expected a list of strings, got"),
        ('[data.a]\nsets = [["b"]]', "sets: expected a list of strings, got"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nbytes = true', "bytes: expected int, got True"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nbytes = -1', "bytes: expected 0 to 10"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nimages = 9999999999999999999999', "images: expected 0 to 10"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nbytes = 1979-05-27', "bytes: expected int"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nbytes = nan', "bytes: expected int"),
        ('[data.a]\nfile = "a.zip"\nurls = ["x"]\nsha256 = "abc"', "SHA-256: expected 64 hexadecimal digits, got 'abc'"),
        ('[data.a]\nfile = ".."\nurls = ["x"]', "expected a name without folders"),
        ('[data.a]\nfile = "a\\u001b"\nurls = ["x"]', "expected a name without folders"),
        ('[data.a]\nfile = "a.part"\nurls = ["x"]', "expected a name without .part"),
        ('[data."\\u001b[31m"]\nfile = 1', r"\[data.\\x1b\[31m\]: file"),
        ("a = " + "[" * 5000, "expected a TOML file"),
        ("a = " + "9" * 5000, "expected a TOML file"),
        ("[data.a", "expected a TOML file"),
    ],
)
def test_a_wrong_registry_says_where(text, says, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_registry(tmp_path / "mine.toml")
    assert "\x1b" not in str(caught.value)


def test_a_registry_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "latin.toml", tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="expected a TOML file"):
            load_registry(path)


def test_unknown_and_circular_names(tmp_path):
    with pytest.raises(ConfigError, match=r"div2q: no data set of this name \(did you mean 'div2k'\?"):
        archives_of("div2q", load_registry())
    (tmp_path / "mine.toml").write_text('[data.a]\nsets = ["b"]\n[data.b]\nsets = ["a"]')
    with pytest.raises(ConfigError, match="a: a group contains itself"):
        archives_of("a", load_registry(tmp_path / "mine.toml"))


def test_sets_of_sets_stay_short(tmp_path):
    """Twice the one below, fifteen times over, is one archive; a chain without end is refused."""
    text = '[data.s0]\nfile = "a.zip"\nurls = ["x"]\n'
    text += "".join(f'[data.s{k}]\nsets = ["s{k - 1}", "s{k - 1}"]\n' for k in range(1, 2000))
    (tmp_path / "mine.toml").write_text(text)
    registry = load_registry(tmp_path / "mine.toml")
    assert [archive.name for archive in archives_of("s15", registry)] == ["s0"]
    with pytest.raises(ConfigError, match="a group contains itself, or is nested more than 20 deep"):
        archives_of("s1999", registry)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", []),
        ("/mnt/my disk/data", ["/mnt/my disk/data"]),
        ("file:///mnt/my disk", ["file:///mnt/my disk"]),
        ("https://a/b https://c/d", ["https://a/b", "https://c/d"]),
        ("/mnt/my disk\nhttps://c/d", ["/mnt/my disk", "https://c/d"]),
    ],
)
def test_a_mirror_with_a_blank(given, expected, monkeypatch):
    monkeypatch.setenv("SAMDIFF_MIRROR", given)
    assert mirrors(None) == expected
    assert mirrors(["/x"]) == ["/x"]


def test_odd_names_and_digits(tmp_path):
    """A file's name is quoted in a mirror's address; a SHA-256 in upper case is the same; a mirror of nobody is one error."""
    mirror = tmp_path / "my mirror"
    mirror.mkdir()
    path = archive(mirror / "100% a#b?c.zip")
    text = f'[data.one]\nfile = "{path.name}"\nurls = ["file:///gone"]\nsha256 = "{hashlib.sha256(path.read_bytes()).hexdigest().upper()}"'
    (tmp_path / "mine.toml").write_text(text)
    registry = load_registry(tmp_path / "mine.toml")
    for _ in range(2):
        (found,) = download_dataset("one", registry, tmp_path / "down", mirrors=[str(mirror)])
        assert found.read_bytes() == path.read_bytes()
    with pytest.raises(ConfigError, match="expected https://, file:// or a path"):
        download_dataset("one", registry, tmp_path / "down", mirrors=["~nobody-of-this-name/x"])


def test_unpacking_replaces_nothing(tmp_path):
    """A file that was edited, a folder of its name, a link where a half-made file would lie: left alone, and named."""
    source, folder = archive(tmp_path / "a.zip"), tmp_path / "out"
    (folder / "a").mkdir(parents=True)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"mine")
    edited = folder / "a" / "0001.png"
    edited.write_bytes(b"mine")
    with pytest.raises(
        DownloadError, match=r"0001.png: exists and differs from the archive's file \([0-9]+ bytes\); it is left unchanged"
    ):
        extract(source, folder)
    assert edited.read_bytes() == b"mine"
    edited.unlink()
    part = folder / "a" / "0001.png.part"
    part.symlink_to(theirs)
    with pytest.raises(DownloadError, match="got a link or a folder"):
        extract(source, folder)
    assert theirs.read_bytes() == b"mine"
    part.unlink()
    part.hardlink_to(theirs)
    assert extract(source, folder) == 3
    assert theirs.read_bytes() == b"mine"


def archive(path, count=3, first=0, size=(70, 64)):
    with zipfile.ZipFile(path, "w") as file:
        for k in range(first, first + count):
            file.writestr(f"{path.stem}/{k:04d}.png", file_of(photo(*size, k), "PNG"))
    return path


@pytest.fixture
def mine(tmp_path):
    """A registry of two small sets whose address is dead, and a mirror folder that holds them."""
    mirror = tmp_path / "mirror ü"
    mirror.mkdir()
    text = ""
    for name, first in (("one", 0), ("two", 50)):
        path = archive(mirror / f"{name}.zip", first=first)
        digest, size = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
        text += f'[data.{name}]\nfile = "{name}.zip"\nurls = ["file:///gone/{name}.zip"]\nimages = 3\nlicence = "ours"\n'
        text += f'bytes = {size}\nsha256 = "{digest}"\n'
    (tmp_path / "mine.toml").write_text(text + '[data.both]\nsets = ["one", "two"]\n')
    return tmp_path / "mine.toml", mirror


def test_obtain_takes_mirrors_checks_and_counts(mine, tmp_path):
    """All archives of the name, in order; nothing is fetched twice; every address is in the error."""
    path, mirror = mine
    registry = load_registry(path)
    with pytest.raises(DownloadError, match="file:///gone/one.zip: there is no such file"):
        download_dataset("both", registry, tmp_path / "none")
    paths = download_dataset("both", registry, tmp_path / "down", mirrors=[str(tmp_path / "nothing"), str(mirror)])
    assert [p.name for p in paths] == ["one.zip", "two.zip"]
    assert download_dataset("both", registry, tmp_path / "down") == paths
    path.write_text(path.read_text().replace("images = 3", "images = 4", 1))
    with pytest.raises(DownloadError, match="expected 4 images, got 3"):
        download_dataset("one", load_registry(path), tmp_path / "down")
    (mirror / "three.zip").write_bytes(b"not an archive at all")
    path.write_text('[data.three]\nfile = "three.zip"\nurls = ["file:///gone"]')
    with pytest.raises(DownloadError, match="is complete but is no archive of images"):
        download_dataset("three", load_registry(path), tmp_path / "down", mirrors=[mirror.as_uri()])


def test_free_disk_for_all_archives_is_looked_at_first(mine, tmp_path, monkeypatch):
    """And less is needed when a part is there."""
    path, mirror = mine
    asked = []
    monkeypatch.setattr(datasets, "check_disk", lambda folder, needed: asked.append(needed))
    sizes = [(mirror / f"{name}.zip").stat().st_size for name in ("one", "two")]
    (tmp_path / "down").mkdir()
    (tmp_path / "down" / "two.zip.part").write_bytes(b"x" * 100)
    download_dataset("both", load_registry(path), tmp_path / "down", mirrors=[str(mirror)])
    download_dataset("both", load_registry(path), tmp_path / "down")
    assert asked == [sum(sizes) - 100, 0]


def test_unpacking_is_resumable_and_counts(tmp_path, monkeypatch):
    """Killed after two files, it resumes; half a file never bears its name; a damaged archive is an error."""
    source, folder = archive(tmp_path / "a.zip", count=5), tmp_path / "out"
    real, left = datasets.os.replace, [2]

    def dying(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(*paths)

    monkeypatch.setattr(datasets.os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        extract(source, folder, 5)
    assert sorted(p.name for p in folder.rglob("*.png")) == ["0000.png", "0001.png"]
    left[0] = 99
    before = (folder / "a" / "0000.png").stat().st_mtime_ns
    assert extract(source, folder, 5) == 5
    assert left[0] == 96
    assert (folder / "a" / "0000.png").stat().st_mtime_ns == before
    with zipfile.ZipFile(source) as file:
        assert all((folder / name).read_bytes() == file.read(name) for name in file.namelist())
    with pytest.raises(DownloadError, match="expected 6 images, got 5"):
        extract(source, folder, 6)
    data = bytearray(source.read_bytes())
    data[data.index(b"\x89PNG") + 50] ^= 1
    source.write_bytes(data)
    with pytest.raises(ImageError, match="Bad CRC"):
        extract(source, tmp_path / "again")


def test_unpacking_replaces_nobodys_files(tmp_path):
    """A file of another length, a folder, or a link to nothing under a picture's name: refused before anything is unpacked."""
    source = archive(tmp_path / "a.zip", 3)
    name = "a/0001.png"
    for number, plant in enumerate((lambda p: p.write_text("mine"), lambda p: p.mkdir(), lambda p: p.symlink_to("nowhere"))):
        folder = tmp_path / f"out{number}"
        (folder / "a").mkdir(parents=True)
        plant(folder / name)
        with pytest.raises(DownloadError, match=f"{name}: exists and differs from the archive's file"):
            extract(source, folder, 3)
        assert [str(path.relative_to(folder)) for path in folder.rglob("*.*")] == [name]


def test_unpacking_cannot_leave_its_folder(tmp_path):
    """Neither by names in the archive nor by a link that lies in the folder already."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("../up.png", "/root.png", "sub/../../up2.png", "sub/in.png"):
            file.writestr(name, b"x")
    folder = tmp_path / "deep" / "out"
    assert extract(tmp_path / "a.zip", folder, 4) == 4
    assert all(p.is_relative_to(folder) for p in tmp_path.rglob("*.png"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "sub").symlink_to(outside)
    with pytest.raises(DownloadError, match="leads out of it"):
        extract(tmp_path / "a.zip", tmp_path / "trap")
    assert not list(outside.iterdir())


def test_the_commands(mine, tmp_path, monkeypatch, capsys):
    """download lists, fetches and unpacks; prepare takes the name, and LR by name; a dry run fetches nothing."""
    path, mirror = mine
    archive(mirror / "small.zip", size=(17, 16))
    path.write_text(path.read_text() + '[data.small]\nfile = "small.zip"\nurls = ["file:///gone"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(masks, "MaskGenerator", lambda *_, **__: NoMasks())
    monkeypatch.setenv("SAMDIFF_REGISTRY", str(path))

    def run(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        said = capsys.readouterr()
        return stopped.value.code, said.out + said.err

    code, said = run("download")
    assert code == 0
    assert "div2k-valid-lr-x4" in said
    assert "both" in said
    prepared = ("prepare", "one", "--tile", "64", "--sam", "mobile_sam", "--lr", "small")
    code, said = run(*prepared, "--dry-run")
    assert code == 0
    assert "download missing: data/downloads/one.zip, data/downloads/small.zip" in said
    code, said = run("download", "one")
    assert code == 1
    assert "file:///gone/one.zip" in said
    monkeypatch.setenv("SAMDIFF_MIRROR", str(mirror))  # with a blank in it
    code, said = run("download", "both", "--extract")
    assert code == 0
    assert "licence: ours" in said
    assert len(list((tmp_path / "data" / "downloads" / "two").rglob("*.png"))) == 3
    assert run(*prepared)[0] == 0
    store = open_store(tmp_path / "data" / "one.zarr")
    assert store.names() == [f"one/{k:04d}.png" for k in range(3)]
    assert store.attrs["degradation"] == {"kind": "given"}
    assert run("prepare", "both", "--tile", "64", "--sam", "mobile_sam")[0] == 0
    assert len(open_store(tmp_path / "data" / "both.zarr").names()) == 6
    code, said = run(*prepared, "--degrade", "blind")
    assert code == 2
    assert "--degradation blind has no effect" in said
