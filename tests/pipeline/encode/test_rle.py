"""Runs of masks, against pycocotools as an independent implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from samdiff.errors import SamdiffError
from samdiff.pipeline.encode import rle
from samdiff.pipeline.encode.coco import from_string, to_string

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


@given(MASKS)
def test_encode_and_decode_agree_with_pycocotools(mask):
    """Runs, string, pixels, area and box are those of cocoapi."""
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = rle.encode(mask)
    assert counts.dtype == np.uint32
    assert rle.to_coco(counts, *mask.shape) == {"size": list(mask.shape), "counts": theirs["counts"].decode()}
    assert np.array_equal(rle.counts_of(theirs), counts)
    assert np.array_equal(rle.decode(counts, *mask.shape), mask)
    assert rle.area(counts) == mask.sum()
    x, y, w, h = coco.toBbox(theirs)
    assert rle.box(counts, mask.shape[0]) == ((x, y, x + w, y + h) if mask.any() else (0, 0, 0, 0))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 7))
def test_runs_of_length_zero_are_read_like_any_other(lengths, height):
    """Files hold runs of 0 inside; decode, area, box and painting do not mind."""
    lengths.append(-sum(lengths) % height)
    counts = np.array(lengths, np.uint32)
    width = int(counts.sum()) // height
    mask = np.array([k % 2 == 1 for k, n in enumerate(lengths) for _ in range(n)], bool).reshape(width, height).T
    assert np.array_equal(rle.decode(counts, height, width), mask)
    ys, xs = np.nonzero(mask)
    assert rle.area(counts) == len(xs)
    if width:
        assert rle.box(counts, height) == ((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0))
    assert np.array_equal(rle.paint_labels([counts], height, width) == 1, mask)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_the_string_holds_any_run_of_32_bits(lengths):
    """Writing and reading give the same lengths, the longest included."""
    counts = np.array(lengths, np.uint32)
    assert np.array_equal(from_string(to_string(counts)), counts)


@given(st.lists(MASKS, max_size=4))
def test_painting_is_in_order_later_over_earlier(masks):
    """It equals a plain loop."""
    height, width = 9, 11
    masks = [np.pad(m, ((0, 12), (0, 12)))[:height, :width] for m in masks]
    expected = np.zeros((height, width), np.uint16)
    for k, mask in enumerate(masks, start=1):
        expected[mask] = k
    runs = [rle.encode(mask) for mask in masks]
    assert np.array_equal(rle.paint_labels(runs, height, width), expected)


def test_every_form_of_a_mask_gives_the_same_runs():
    """Compressed str and bytes, uncompressed, runs and pixels."""
    mask = np.zeros((5, 4), bool)
    mask[1:3, 1:] = True
    counts = rle.encode(mask)
    string = rle.to_coco(counts, 5, 4)
    forms = [string, {**string, "counts": string["counts"].encode()}, {"size": (5, 4), "counts": counts.tolist()}, counts, mask]
    for form in forms:
        got = rle.counts_of(form, 5, 4)
        assert got.dtype == np.uint32
        assert np.array_equal(got, counts)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ({"size": [4, 5], "counts": [20]}, "expected 5 x 4"),
        ({"size": [5, 4], "counts": [3, 18]}, "cover 21 pixels, expected 20"),
        ({"size": [5, 4], "counts": [19]}, "cover 19 pixels"),
        ({"size": [5, 4], "counts": [3, 2**40]}, "cover 1099511627776 pixels"),
        ({"size": [5, 4], "counts": [2**63 - 1, 2**63 - 1, 22]}, "cover 9223372036854775807"),
        ({"size": [5, 4], "counts": [-3, 23]}, "lengths >= 0"),
        ({"size": [5, 4], "counts": [1.5, 18.5]}, "expected integers"),
        ({"size": [5, 4], "counts": [[20]]}, "expected integers"),
        ({"size": [5, 4], "counts": []}, "cover 0 pixels"),
        ({"size": [5, 4], "counts": ""}, "cover 0 pixels"),
        ({"size": [5, 4], "counts": "d0 "}, "not a COCO RLE string"),
        ({"size": [5, 4], "counts": "é"}, "not a COCO RLE string"),
        ({"size": [5, 4], "counts": "d0P"}, "not a COCO RLE string"),
        ({"size": [5, 4], "counts": "oooooooo0"}, "longer than 32 bits"),
        ({"size": [5], "counts": [5]}, "expected \\[H, W\\]"),
        ({"size": [5, 4]}, "keys size and counts"),
        (np.zeros((4, 5), bool), "expected 5 x 4"),
        (np.zeros((1, 5, 4), bool), "expected bool \\[H, W\\]"),
        (np.array([7, 7], np.uint32), "cover 14 pixels"),
    ],
)
def test_what_is_no_mask_of_this_image_is_refused(mask, says):
    """Wrong sizes and damaged runs name what was expected and what came."""
    with pytest.raises(SamdiffError, match=says):
        rle.counts_of(mask, 5, 4)


def test_runs_alone_need_a_size():
    """Runs do not say how high a column is."""
    with pytest.raises(SamdiffError, match="expected height and width"):
        rle.counts_of(np.array([20], np.uint32))


def test_more_masks_than_labels_are_refused():
    """uint16 ends at 65535; masks must not wrap around."""
    one = np.array([0, 4], np.uint32)
    assert rle.paint_labels([one] * rle.MAX_MASKS, 2, 2).min() == 65535
    with pytest.raises(SamdiffError, match="at most 65535"):
        rle.paint_labels([one] * (rle.MAX_MASKS + 1), 2, 2)
