"""Benchmarks by name: downloaded, hash recorded, unpacked, found."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError
from samdiff.model.evaluation.benchmark import read_benchmark_folder
from samdiff.model.evaluation.benchmark_layout import BICUBIC
from samdiff.pipeline.download.benchmarks import find_benchmark
from samdiff.pipeline.download.datasets import download_dataset, load_registry
from samdiff.pipeline.download.fetch import DownloadError

from ...helpers.zoo import file_of, photo


def archive(place, seed=0):
    """Five images as eugenesiow packs them."""
    with tarfile.open(place, "w:gz") as tar:
        for k in range(5):
            data = file_of(photo(32, 48, seed + k), "PNG")
            info = tarfile.TarInfo(f"Set5_HR/{k}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return place


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with the archive, and an empty one to download to."""
    (tmp_path / "mirror").mkdir()
    archive(tmp_path / "mirror" / "Set5_HR.tar.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAMDIFF_DOWNLOADS", str(tmp_path / "down"))
    return tmp_path / "mirror"


def test_download_unpacks_and_the_name_finds_it(mirror, tmp_path, capsys):
    with pytest.raises(ConfigError, match="fetch it: samdiff download set5"):
        find_benchmark(Path("set5"))
    with pytest.raises(SystemExit, match="0"):
        main(["download", "set5", "--mirror", str(mirror)])
    assert "5 images unpacked; --benchmark set5 finds them" in capsys.readouterr().out
    folder = find_benchmark(Path("set5"))
    assert folder == tmp_path / "down" / "set5"
    found = read_benchmark_folder(folder, 4)
    assert (len(found.pairs), found.lr_from, found.skipped) == (5, BICUBIC, {})


def test_the_first_hash_is_recorded_and_later_ones_are_compared(mirror, tmp_path, caplog):
    registry = load_registry()
    (path,) = download_dataset("set5", registry, tmp_path / "down", mirrors=[str(mirror)])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    record = path.with_name("Set5_HR.tar.gz.sha256")
    assert record.read_text() == f"{sha256}  Set5_HR.tar.gz\n"
    assert f"SHA-256 {sha256}, recorded in" in caplog.text
    caplog.clear()
    download_dataset("set5", registry, tmp_path / "down", mirrors=[])
    assert "SHA-256" not in caplog.text
    path.unlink()
    archive(mirror / "Set5_HR.tar.gz", seed=9)
    registry["set5"] = type(registry["set5"])(**{**vars(registry["set5"]), "urls": (f"file://{mirror}/Set5_HR.tar.gz",)})
    with pytest.raises(DownloadError, match=sha256):
        download_dataset("set5", registry, tmp_path / "down")
    assert record.read_text().startswith(sha256)
    record.write_text("mine")
    with pytest.raises(DownloadError, match="expected the SHA-256 that was recorded"):
        download_dataset("set5", registry, tmp_path / "down")
    assert record.read_text() == "mine"


def test_a_benchmark_on_request_says_where_and_is_found(mirror, tmp_path):
    with pytest.raises(DownloadError, match="on request only, see https://.*Manga109"):
        download_dataset("manga109", load_registry(), tmp_path / "down")
    (tmp_path / "down" / "Manga109").mkdir(parents=True)
    assert find_benchmark(Path("manga109")) == tmp_path / "down" / "Manga109"


def test_a_folder_goes_before_a_name_and_an_archive_is_unpacked(mirror, tmp_path):
    here = Path()
    (tmp_path / "down").mkdir()
    archive(tmp_path / "down" / "Set5_HR.tar.gz")
    assert len(list((find_benchmark(here / "Set5") / "Set5_HR").iterdir())) == 5
    (tmp_path / "set5").mkdir()
    assert find_benchmark(here / "set5") == here / "set5"
    for other in ("div2k", "nothing", "a/set5"):
        assert find_benchmark(here / other) == here / other
