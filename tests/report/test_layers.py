"""Layers as PNG: decoded again by Pillow, they have the colours and transparency of their labels."""

import io

import numpy as np
import pytest
from PIL import Image

from samdiff.model.sheets.overlay import E_LIMIT, diverging
from samdiff.report.layers import (
    as_rgb8,
    difference_layer,
    edges_layer,
    fit,
    inner_points,
    lossless_png,
    masks_layer,
    structure_layer,
)

LABELS = np.zeros((20, 30), np.uint16)
LABELS[2:9, 3:14] = 1
LABELS[2:9, 14:25] = 2
LABELS[12:18, 5:9] = 3


def rgba(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


def test_masks_are_opaque_and_differ_from_their_neighbours():
    shown = rgba(masks_layer(LABELS))
    assert np.array_equal(shown[..., 3] > 0, LABELS > 0)
    colours = [set(map(tuple, shown[k == LABELS])) for k in (1, 2, 3)]
    assert [len(each) for each in colours] == [1, 1, 1]
    assert colours[0] != colours[1]


def test_boundaries_are_where_labels_change():
    shown = rgba(edges_layer(LABELS))
    white = (shown[..., :3] == 255).all(axis=2) & (shown[..., 3] > 0)
    change = np.zeros(LABELS.shape, bool)
    change[1:] |= np.diff(LABELS.astype(int), axis=0) != 0
    change[:, 1:] |= np.diff(LABELS.astype(int), axis=1) != 0
    assert np.array_equal(white, change)
    assert not shown[0, 0, 3]


def test_structure_has_the_colour_of_its_code():
    """Within one of 255 levels of the continuous colour map; beyond the range it is clipped."""
    codes = np.array([-E_LIMIT, 0.4, 2.0], np.float32)
    shown = rgba(structure_layer(LABELS, codes))
    assert np.array_equal(shown[..., 3] > 0, LABELS > 0)
    for label, code in enumerate(codes, start=1):
        expected = diverging(np.array([code / E_LIMIT]))[0].astype(int)
        assert np.abs(shown[label == LABELS][0, :3] - expected).max() <= 2


def test_numbers_are_inside_their_masks():
    ring = np.zeros((31, 31), np.uint16)
    ring[5:26, 5:26] = 7
    ring[8:23, 8:23] = 0  # the centre of gravity is outside the mask
    for labels in (ring, LABELS):
        points = inner_points(labels)
        assert set(points) == set(np.unique(labels).tolist()) - {0}
        assert all(labels[y, x] == label for label, (x, y) in points.items())
    assert inner_points(np.zeros((4, 4), np.uint16)) == {}


def test_difference_is_the_mean_over_bands():
    truth = np.zeros((6, 6, 3), np.uint8)
    image = truth.copy()
    image[2, 3] = (48, 24, 24)  # a mean of 32: the brightest colour, like any larger one
    image[4, 4] = 255
    shown = rgba(difference_layer(image, truth))[..., :3]
    assert tuple(shown[2, 3]) == tuple(shown[4, 4]) == (253, 231, 37)  # the end of viridis
    assert tuple(shown[0, 0]) == (68, 1, 84)


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((100, 50), 200, (100, 50)), ((100, 50), 20, (20, 10)), ((1, 4000), 40, (1, 40))]
)
def test_fit(size, side, expected):
    assert fit(*size, side) == expected


@pytest.mark.parametrize("bands", [None, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_bands_become_rgb(bands, dtype):
    """16 bits are shifted to 8, one or two bands are grey, of more the first three are shown."""
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top + 1, (5, 4) if bands is None else (5, 4, bands), dtype=dtype)
    shown = as_rgb8(pixels)
    assert shown.dtype == np.uint8
    assert shown.shape == (5, 4, 3)
    first = np.atleast_3d(pixels)[..., : 3 if (bands or 1) >= 3 else 1] // ((top + 1) // 256)
    assert np.array_equal(shown, np.broadcast_to(first, shown.shape))
    assert np.array_equal(rgba(lossless_png(shown))[..., :3], shown)
