"""Shuffled labels: the same regions elsewhere in the crop, as a function of seed and position; everything else unchanged."""

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ConfigError
from samdiff.pipeline.stream.crops import shift_labels
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.stores import make_store


def test_regions_keep_their_sizes_and_leave_their_places(tmp_path):
    store = open_store(make_store(tmp_path / "a.zarr", n=10, masks=(2, 4, 1)))
    plain, shuffled = (ShardDataset(store, 16, seed=3, labels=labels, e_sam=True) for labels in ("masks", "shuffled"))
    ours, theirs = shuffled.batch(5, 12), plain.batch(5, 12)
    for name in ("hr", "lr", "image", "position"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    table, offset = plain.codes()
    for k in range(12):
        np.testing.assert_array_equal(np.bincount(ours["labels"][k].flat), np.bincount(theirs["labels"][k].flat))
        np.testing.assert_array_equal(ours["e_sam"][k], table[offset[ours["image"][k]] + ours["labels"][k]])
    assert (ours["labels"] != theirs["labels"]).mean() > 0.2
    alone = shuffled.batch(9, 1)["labels"][0]  # a function of the position, not of the batch
    np.testing.assert_array_equal(alone, ours["labels"][4])
    other = ShardDataset(store, 16, seed=4, labels="shuffled")
    assert (other.batch(5, 12)["labels"] != ours["labels"]).any()
    with pytest.raises(ConfigError, match="labels: expected 'masks' or 'shuffled', got 'random'"):
        ShardDataset(store, 16, labels="random")


def test_a_map_moves_by_a_quarter_to_three_quarters():
    """A single pixel shows the move: each of P / 4 to 3 P / 4 occurs, nothing else does."""
    labels = np.zeros((400, 8, 8), np.uint16)
    labels[:, 0, 0] = 5
    shift_labels(labels, np.arange(400), seed=1)
    assert (labels == 5).sum() == 400
    _, rows, columns = np.nonzero(labels)
    assert set(rows) == set(columns) == {2, 3, 4, 5}
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2
