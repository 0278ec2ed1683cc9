"""`samdiff export`, and what other programs see: HDF5, PNG pairs, segment-anything's mask files, xarray, zarr-python."""

import json
import warnings
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import xarray
import zarr
from pycocotools import mask as coco

from samdiff import rope_table
from samdiff.errors import ConfigError
from samdiff.pipeline.export.export import export_folder, export_hdf5
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import Store, open_store
from samdiff.pipeline.shards.schema import ARRAYS

from ..prepare.test_prepare import PositionMasks, position_image, position_masks, write


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("export")
    write(folder / "photos" / "a.png", position_image(160, 188, 10))
    write(folder / "photos" / "deep" / "a.png", position_image(64, 64, 20))
    write(folder / "photos" / "small.png", position_image(40, 64, 20))
    prepare(folder / "photos", folder / "x.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64))
    return open_store(folder / "x.zarr")


def test_hdf5_holds_every_array(store, tmp_path):
    """Names, dims, dtypes and values; E_SAM by an independent formula."""
    export_hdf5(store, tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        for spec in ARRAYS:
            np.testing.assert_array_equal(file[spec.path][:], store.table(spec.path), err_msg=spec.path)
            assert (file[spec.path].dtype, tuple(file[spec.path].attrs["dims"])) == (spec.dtype, spec.dims)
        assert file["tiles/hr"].chunks == (1, 64, 64, 3)
        assert json.loads(file.attrs["samdiff"]) == store.attrs
        e_sam = file["tiles/e_sam"][:]
    whole = np.zeros((160, 188))
    for mask in filter(np.any, position_masks(160, 188)):
        whole[mask] = rope_table(160, 188)[mask].mean(dtype=np.float64)
    for (image, y, x), tile in zip(store.table("tiles/place"), e_sam, strict=True):
        if image == 0:
            np.testing.assert_allclose(tile, whole[y : y + 64, x : x + 64], atol=1e-6)
    with pytest.raises(ConfigError, match="exists already"):
        export_hdf5(store, tmp_path / "x.h5")


def test_folder_of_pairs(store, tmp_path):
    """PNG pairs and arrays tile by tile, meta_info as BasicSR parses it, masks as amg.py writes them."""
    export_folder(store, tmp_path / "out")
    lines = (tmp_path / "out" / "meta_info.txt").read_text().splitlines()
    assert len(lines) == len(store)
    with h5py.File(_hdf5(store, tmp_path)) as file:
        e_sam = file["tiles/e_sam"][:]
    for row, line in enumerate(lines):
        name = line.split(" ")[0]
        for folder, array in (("HR", "hr"), ("LR", "lr")):
            image = cv2.imread(str(tmp_path / "out" / folder / name))[..., ::-1]
            np.testing.assert_array_equal(image, store.read_tiles(array, [row])[0])
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "E_SAM" / name.replace(".png", ".npy")), e_sam[row])
        assert line.split(" ")[1] == "(64,64,3)"
    assert lines[0].startswith("a_s001.png")
    assert lines[-1].startswith("deep_a_s001.png")
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.json", "deep_a.json"]
    records = json.loads((tmp_path / "out" / "masks" / "a.json").read_text())
    for record, mask in zip(records, position_masks(160, 188), strict=True):
        np.testing.assert_array_equal(coco.decode(record["segmentation"]).astype(bool), mask)
        assert record["area"] == mask.sum()
        assert {"bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"} <= set(record)
    with pytest.raises(ConfigError, match="exists already"):
        export_folder(store, tmp_path / "out")


def _hdf5(store: Store, folder: Path) -> Path:
    export_hdf5(store, folder / "y.h5")
    return folder / "y.h5"


def test_xarray_and_zarr_open_it_without_a_warning(store):
    """Named dimensions, all values."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(store.place.root, mode="r")
        for name in ("images", "masks", "tiles"):
            data = xarray.open_zarr(store.place.root, group=name, consolidated=False)
            for spec in ARRAYS:
                if spec.group == name:
                    np.testing.assert_array_equal(data[spec.path.split("/")[1]].values, store.table(spec.path))
                    assert data[spec.path.split("/")[1]].dims == spec.dims
                    np.testing.assert_array_equal(group[spec.path][:], store.table(spec.path))
    assert data.hr.sel(tile=3, band=0).shape == (64, 64)
