"""Packages of extras: not loaded before they are needed, and a missing one gives one line that says what to install."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import samdiff

from .helpers.measured import scene, tiff_bytes, write_geotiff
from .helpers.stores import make_store

ROOT = Path(samdiff.__file__).parent
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from samdiff.cli import main
main(sys.argv[1:])
"""


def without(names: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process where these packages cannot be imported."""
    code = BLOCKER.format(names=names)
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", [["--workers", "2"], ["--dask", "tls://127.0.0.1:9"]])
@pytest.mark.parametrize("missing", ["dask", "distributed"])
def test_without_dask(tmp_path, missing, option):
    """Before weights are looked for and images read."""
    done = without(
        [missing], "prepare", str(tmp_path / "no"), "--sam-weights", "no.pth", "--out", str(tmp_path / "a.zarr"), *option
    )
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line == (
        f"samdiff: --workers and --dask: needs the package {missing}, which is not installed; pip install 'samdiff[cluster]'"
    )
    assert not list(tmp_path.iterdir())


def test_without_h5py(tmp_path):
    store = make_store(tmp_path / "a.zarr", n=2)
    done = without(["h5py"], "export", str(store), str(tmp_path / "a.h5"), "--to", "hdf5")
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1]
        == "samdiff: HDF5: needs the package h5py, which is not installed; pip install 'samdiff[hdf5]'"
    )
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(("name", "missing", "extra"), [("sam2.1_t", "sam2", "sam2"), ("hf:a/b", "transformers", "hf")])
def test_without_the_package_of_a_segmenter(tmp_path, name, missing, extra):
    """Before weights are looked for; in a dry run too."""
    (tmp_path / "in").mkdir()
    words = ["prepare", str(tmp_path / "in"), "--out", str(tmp_path / "a.zarr"), "--sam", name]
    for more in ([], ["--dry-run"]):
        done = without([missing, "huggingface_hub"], *words, *more)
        assert done.returncode == 2, done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.endswith(f", which is not installed; pip install 'samdiff[{extra}]'")
        assert line.startswith(f"samdiff: --sam {name if extra == 'sam2' else 'hf'}: needs the package ")


def test_without_the_readers_of_measured_values(tmp_path):
    """Before anything is segmented: which extra to install, by the kind of file."""
    write_geotiff(tmp_path / "geo" / "a.tif", scene(), nodata=0)
    (tmp_path / "ome").mkdir()
    (tmp_path / "ome" / "a.tif").write_bytes(tiff_bytes(scene()[..., 0], ome=True, metadata={"axes": "YX"}))
    (tmp_path / "dcm").mkdir()
    (tmp_path / "dcm" / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    for folder, missing, line in (
        ("geo", "rasterio", "GeoTIFF: needs the package rasterio, which is not installed; pip install 'samdiff[geo]'"),
        ("ome", "tifffile", "needs the package tifffile, which is not installed; pip install 'samdiff[microscopy]'"),
        ("dcm", "pydicom", "DICOM: needs the package pydicom, which is not installed; pip install 'samdiff[medical]'"),
    ):
        words = ["prepare", str(tmp_path / folder), "--out", str(tmp_path / "a.zarr"), "--sam", "mobile_sam", "--dry-run"]
        done = without([missing], *words)
        assert done.returncode == 2, done.stderr
        assert done.stderr.splitlines()[-1].endswith(line), done.stderr


def test_nothing_else_needs_them(tmp_path):
    """A store is written to a folder without the packages of any extra."""
    store = make_store(tmp_path / "a.zarr", n=2)
    done = without(
        ["h5py", "dask", "distributed", "cryptography", "tensorboard"],
        "export",
        str(store),
        str(tmp_path / "f"),
        "--to",
        "folder",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "f" / "meta_info.txt").exists()


def test_what_setup_cfg_declares():
    """Dask and h5py are in their extras alone; `all` has both, and the tests (`make install`) have `all`."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    needed, extras = parser["options"]["install_requires"], parser["options.extras_require"]
    for name, extra in (("dask", "cluster"), ("cryptography", "cluster"), ("h5py", "hdf5")):
        assert name not in needed
        assert name in extras[extra]
    assert {"cluster", "hdf5"} <= set(extras["all"].strip().removeprefix("samdiff[").removesuffix("]").split(","))
    assert "samdiff[all]" in extras["test"]
    assert "samdiff[test]" in extras["dev"]
