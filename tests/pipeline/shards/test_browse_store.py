"""A store as a sequence of tiles, and in a notebook."""

import numpy as np
import pytest

import samdiff
from samdiff.errors import IndexKindError, PositionError

from ...helpers.stores import make_store


def test_a_store_is_a_sequence_of_tiles(tmp_path):
    store = samdiff.open_store(make_store(tmp_path / "a.zarr", n=5))
    tiles = list(store)
    assert [int(tile["hr"][0, 0, 0]) for tile in tiles] == [0, 1, 2, 3, 4]
    assert {name: (value.dtype.name, value.shape) for name, value in tiles[0].items()} == {
        "hr": ("uint8", (24, 24, 3)),
        "lr": ("uint8", (6, 6, 3)),
        "labels": ("uint16", (24, 24)),
        "place": ("int32", (3,)),
    }
    for index in (-1, np.int64(4)):
        np.testing.assert_array_equal(store[index]["lr"], store.read_tiles("lr", [4])[0])
    assert store[-1]["place"].tolist() == store.table("tiles/place")[4].tolist()
    for outside in (5, -6):
        with pytest.raises(PositionError, match=f"index {outside}: expected -5 to 4"):
            store[outside]
    with pytest.raises(IndexKindError, match=r'got a slice; `read_tiles\("hr", rows\)`'):
        store[:3]


def test_a_store_in_a_notebook(tmp_path):
    """Counts, sizes and tiles beside their masks; what is damaged is named in place of the tiles."""
    path = make_store(tmp_path / "a.zarr", n=5)
    page = samdiff.open_store(path)._repr_html_()
    assert page.count("data:image/png;base64,") == 8
    assert "5 of 24 x 24 HR pixels, x4" in page
    (shard,) = (file for file in (path / "tiles/hr/c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:-9])
    page = samdiff.open_store(path)._repr_html_()
    assert "base64" not in page
    assert "tiles/hr" in page
