"""Structural position encoding, against golden data, a plain double loop and pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from samdiff.errors import SamdiffError
from samdiff.pipeline.encode.rle import encode
from samdiff.pipeline.encode.structure import RopeSums, encode_structure, rope_table

GOLDEN = Path(__file__).parents[2] / "golden"


def plain_table(height, width):
    """x_RoPE by its definition, one value at a time, in float64."""
    table = np.ones((height, width))
    for r in range(height):
        for k in range(width // 2):
            angle = r * 10000 ** (-2 * k / width)
            table[r, 2 * k] = np.cos(angle) - np.sin(angle)
            table[r, 2 * k + 1] = np.cos(angle) + np.sin(angle)
    return table


@pytest.mark.parametrize("case", json.loads((GOLDEN / "spe_masks.json").read_text()), ids=lambda case: case["name"])
def test_agrees_with_the_golden_files(case):
    """Table, the paper's mean and the official script's mean; one width is odd."""
    golden, name = np.load(GOLDEN / "spe.npz"), case["name"]
    found = encode_structure(case["rles"], case["height"], case["width"])
    assert np.abs(rope_table(case["height"], case["width"]) - golden[f"{name}_rope"]).max() <= 2e-5
    assert np.abs(found.e_sam("mask") - golden[f"{name}_mask_mean"]).max() <= 1e-6
    assert np.abs(found.e_sam("image") - golden[f"{name}_image_mean"]).max() <= 1e-6


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 1), (130, 3), (5, 64), (65, 33), (200, 40)])
def test_table_and_its_prefix_sums_follow_the_definition(size):
    """Every prefix in column-major order, though no table is summed."""
    table, sums = plain_table(*size), RopeSums(*size)
    assert np.abs(rope_table(*size) - table).max() < 1e-7
    prefix = np.concatenate([[0], np.cumsum(table.T.ravel())])
    assert np.abs(sums.upto(np.arange(table.size + 1)) - prefix).max() < 1e-9


def test_prefix_sums_stay_accurate_on_large_images():
    """10,000 x 10,000 without a table of that size: the smallest frequencies and the farthest rows included."""
    height = width = 10_000
    sums = RopeSums(height, width)
    for column in (0, 1, 5000, 9998, 9999):
        angle = np.arange(height) * 10000.0 ** (-2 * (column // 2) / width)
        values = np.cos(angle) + (1 if column % 2 else -1) * np.sin(angle)
        for stop in (1, 17, 9999, 10_000):
            start = column * height
            got = np.diff(sums.upto(np.array([start, start + stop])))[0]
            assert abs(got - values[:stop].sum()) < 1e-6


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), st.randoms(use_true_random=False))
def test_codes_and_labels_equal_decoded_masks_times_the_table(height, width, n, random):
    """The definition, with pycocotools' decoder, for masks of any shape, the empty one included."""
    noise = np.random.default_rng(random.randrange(2**32))
    masks = noise.random((n, height, width)) < noise.random((n, 1, 1))
    rles = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    found = encode_structure(rles, height, width)
    table, expected = plain_table(height, width), np.zeros((height, width))
    assert found.codes.shape == (n, 2)
    assert found.codes.dtype == np.float32
    assert found.labels.dtype == np.uint16
    for k, rle in enumerate(rles):
        pixels = coco.decode(rle).astype(bool)
        mean = table[pixels].mean() if pixels.any() else 0.0
        expected[pixels] = mean
        assert found.codes[k] == pytest.approx([mean, mean * pixels.mean()], abs=1e-6)
    assert np.abs(found.e_sam() - expected).max(initial=0) < 1e-6
    assert np.array_equal(encode_structure(masks, height, width).labels, found.labels)


def test_all_forms_of_masks_and_kept_sums_give_the_same():
    """bool [M, H, W], runs and dicts; sums of another image of that size."""
    masks = np.zeros((2, 30, 20), bool)
    masks[0, 3:20, 5:15] = masks[1, 10:, :8] = True
    runs = [encode(mask) for mask in masks]
    sums = RopeSums(30, 20)
    first = encode_structure(masks, 30, 20)
    for other in (encode_structure(runs, 30, 20, sums), encode_structure([m.astype(bool) for m in masks], 30, 20, sums)):
        assert np.array_equal(first.labels, other.labels)
        assert np.array_equal(first.codes, other.codes)
    assert first.labels[15, 6] == 2
    assert first.labels[5, 6] == 1


def test_no_masks_are_fine():
    """M = 0: nothing but background."""
    found = encode_structure([], 4, 6)
    assert found.codes.shape == (0, 2)
    assert not found.e_sam().any()
    assert found.e_sam("image").shape == (4, 6)


def test_an_error_says_which_mask():
    """The second of two is from another image."""
    good, bad = np.zeros((4, 6), bool), np.zeros((6, 4), bool)
    with pytest.raises(SamdiffError, match="mask 1: .*expected 4 x 6"):
        encode_structure([good, bad], 4, 6)
    with pytest.raises(SamdiffError, match="mask or image"):
        encode_structure([good], 4, 6).e_sam("pixel")
