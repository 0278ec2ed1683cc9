"""Samples: aligned crops, functions of the seed and the position, E_SAM by lookup."""

import pickle

import numpy as np
import pytest
import torch

from samdiff import ShardDataset
from samdiff.errors import ConfigError, StoreError
from samdiff.pipeline.stream.dataset import e_sam

from ...helpers.stores import make_store


def test_crops_stay_aligned_under_every_flip(tmp_path):
    """HR, LR and labels of a sample show the same place, whatever was cut, flipped or transposed."""
    data = ShardDataset(make_store(tmp_path / "a.zarr"), patch=12, seed=3)
    batch = data.batch(0, 200)
    y, x = batch["hr"][..., 1].astype(int), batch["hr"][..., 2].astype(int)
    np.testing.assert_array_equal(np.sort(y[:, ::4, ::4] // 4, axis=None), np.sort(batch["lr"][..., 1], axis=None))
    blocks = y.reshape(200, 3, 4, 3, 4).mean(axis=(2, 4)) // 4
    np.testing.assert_array_equal(blocks, batch["lr"][..., 1])  # each LR pixel lies under its 4 x 4 HR pixels
    masks = np.array([2, 0, 1])[batch["image"]]
    np.testing.assert_array_equal((y + x) % (masks[:, None, None] + 1), batch["labels"])
    down = np.sign(y[:, 4, 0] - y[:, 0, 0]), np.sign(x[:, 4, 0] - x[:, 0, 0])
    right = np.sign(y[:, 0, 4] - y[:, 0, 0]), np.sign(x[:, 0, 4] - x[:, 0, 0])
    assert len(set(zip(*down, *right, strict=True))) == 8  # all eight ways to lay a square
    assert {0, 12} <= {int(corner) for corner in y.min(axis=(1, 2))}  # crops reach both ends of the tile


def test_a_sample_depends_on_seed_and_position_alone(tmp_path):
    """Any batch size, start or copy of the data set gives the same sample; another seed another one."""
    path = make_store(tmp_path / "a.zarr")
    data = ShardDataset(path, patch=8, seed=1)
    whole = data.batch(0, 50)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301
    for first, size in ((0, 1), (7, 13), (9, 2), (49, 1)):
        part = copy.batch(first, size)
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole[name][first : first + size])
    np.testing.assert_array_equal(data[30]["hr"], whole["hr"][30])
    assert (ShardDataset(path, patch=8, seed=2).batch(0, 50)["hr"] != whole["hr"]).mean() > 0.5


def test_every_tile_once_per_epoch_over_two_stores(tmp_path):
    """Each epoch holds every tile of every store once, in another order."""
    data = ShardDataset([make_store(tmp_path / "a.zarr"), make_store(tmp_path / "b.zarr", n=4)])
    epochs = [data.batch(e * 14, 14) for e in (0, 1)]
    for batch in epochs:
        assert sorted(batch["hr"][:, 0, 0, 0].tolist()) == sorted([*range(10), *range(4)])
    assert (epochs[0]["hr"] != epochs[1]["hr"]).any()


@pytest.mark.parametrize(("mean", "shift"), [("mask", 0.5), ("image", 0.25)])
def test_e_sam_is_a_lookup_per_image(tmp_path, mean, shift):
    """table[offset[image] + label] equals concat(0, codes[image])[labels] of DESIGN, for two stores."""
    data = ShardDataset([make_store(tmp_path / "a.zarr"), make_store(tmp_path / "b.zarr", masks=(1, 3))], patch=12)
    table, offset = (torch.from_numpy(values) for values in data.codes(mean))
    batch = data.batch(0, 60)
    e = e_sam(torch.from_numpy(batch["labels"]), torch.from_numpy(batch["image"]), table, offset)
    codes = [[0, shift, 1 + shift], [0], [0, 2 + shift], [0, shift], [0, 1 + shift, 2 + shift, 3 + shift]]
    expected = np.stack([np.array(codes[i])[labels] for i, labels in zip(batch["image"], batch["labels"], strict=True)])
    assert e.shape == (60, 1, 12, 12)
    np.testing.assert_array_equal(e[:, 0].numpy(), expected.astype(np.float32))
    assert set(batch["image"]) == {0, 1, 2, 3, 4}


def test_clear_errors(tmp_path):
    """A patch that does not fit, stores of two scales, an empty store."""
    path = make_store(tmp_path / "a.zarr")
    for patch in (10, 28, 0):
        with pytest.raises(ConfigError, match=f"multiple of 4 up to the tile size 24, got {patch}"):
            ShardDataset(path, patch=patch)
    with pytest.raises(StoreError, match="with x4 and .* with x2"):
        ShardDataset([path, make_store(tmp_path / "b.zarr", scale=2)])
    with pytest.raises(ConfigError, match="'mask' or 'image', got 'median'"):
        ShardDataset(path).codes("median")
