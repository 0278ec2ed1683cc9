"""MATLAB's imresize, against a slow loop in double precision and MATLAB's own files where they lie beside the project."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samdiff.errors import SamdiffError
from samdiff.pipeline.degrade.imresize import _cubic, _exact_in_float32, imresize, resize_weights

DATA = Path(os.environ.get("SAMDIFF_DATA") or Path(__file__).parents[4] / "shared" / "data")


def kernel(x):
    """MATLAB's cubic, for one number."""
    x = abs(x)
    if x <= 1:
        return 1.5 * (x * x * x) - 2.5 * (x * x) + 1
    return -0.5 * (x * x * x) + 2.5 * (x * x) - 4 * x + 2 if x <= 2 else 0.0


def slow_pass(image, n_out, scale):
    """One dimension, one pixel at a time as the documentation of imresize describes it, halves up for uint8."""
    n_in, shrink = len(image), min(scale, 1.0)
    width, out = 4 / shrink, []
    for x in range(1, n_out + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        near = [math.floor(u - width / 2) + k for k in range(math.ceil(width) + 2)]
        share = [shrink * kernel(shrink * (u - i)) for i in near]
        total, value = np.sum(share), np.zeros(image.shape[1:])  # numpy's order of adding: the last bit can tip a half
        for i, w in zip(near, share, strict=True):
            folded = (i - 1) % (2 * n_in)
            value = value + (w / total) * image[folded if folded < n_in else 2 * n_in - 1 - folded].astype(np.float64)
        out.append(value)
    result = np.array(out)
    return np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8) if image.dtype == np.uint8 else result


def slow_imresize(image, scales, size):
    """Both dimensions, the smaller scale first."""
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        image = np.moveaxis(slow_pass(np.moveaxis(image, axis, 0), size[axis], scales[axis]), 0, axis)
    return image


def noise(shape, seed, dtype=np.uint8):
    """Random pixels over the whole range."""
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return values.astype(np.uint8) if dtype == np.uint8 else (values / 255).astype(dtype)


SCALES = [1 / 2, 1 / 3, 1 / 4, 1 / 8, 2, 3, 4, 8]


@given(
    st.sampled_from([*SCALES, 0.37, 1.5, 1.0]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(), (1,), (3,), (5,)]),
    st.sampled_from([np.uint8, np.float32, np.float64]),
    st.integers(0, 9),
)
@example(1.5, 34, 10, (), np.uint8, 0)  # (centre - left) - k in place of centre - (left + k) tips a half here
def test_equals_the_slow_loop(scale, height, width, bands, dtype, seed):
    """Any size, scale, number of channels and dtype: uint8 to the last bit, floats to rounding."""
    image = noise((height, width, *bands), seed, dtype)
    got = imresize(image, scale)
    expected = slow_imresize(image, (scale, scale), (math.ceil(scale * height), math.ceil(scale * width)))
    assert got.dtype == dtype
    assert got.shape == expected.shape
    if dtype == np.uint8:
        assert np.array_equal(got, expected)
    else:
        assert np.abs(got - expected).max() < (2e-7 if dtype == np.float32 else 1e-12)


@given(st.tuples(*[st.integers(1, 30)] * 4), st.integers(0, 9))
def test_to_a_size_takes_the_smaller_scale_first(sizes, seed):
    """Output sizes instead of a scale: each axis has its own, and uint8 shows which pass came first."""
    height, width, rows, columns = sizes
    image = noise((height, width), seed)
    expected = slow_imresize(image, (rows / height, columns / width), (rows, columns))
    assert np.array_equal(imresize(image, size=(rows, columns)), expected)


@pytest.mark.parametrize("scale", [1 / 2, 1 / 4, 1 / 8, 1 / 3, 2, 3])
def test_a_million_random_pixels_round_like_the_plain_sum(scale):
    """Sums in order, tap after tap, in float64: no half goes the other way, whatever the BLAS does."""
    size = 1200 if scale < 1 else 600
    image = noise((size, size), 3)
    expected = image
    for _ in range(2):  # rows, then (transposed) columns
        indices, weights = resize_weights(size, math.ceil(scale * size), scale)
        total = np.zeros((len(indices), expected.shape[1]))
        for tap in range(indices.shape[1]):
            total += weights[:, tap, None] * expected[indices[:, tap]]
        expected = np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8).T
    assert np.array_equal(imresize(image, scale), expected)


@pytest.mark.parametrize("scale", SCALES)
def test_halves_are_exact_where_we_claim_it(scale):
    """Any order of adding 255s and 0s gives the same float32 sum, and the float64 one; thirds and eighths are not claimed."""
    _, weights = resize_weights(96, math.ceil(96 * scale), scale)
    assert _exact_in_float32(weights) == (scale in (1 / 2, 1 / 4, 2, 4, 8))
    pixels, small = noise(weights.shape, 1), weights.astype(np.float32)
    order = np.random.default_rng(2).permutation(weights.shape[1])
    sums = np.cumsum((small * pixels)[:, order], axis=1, dtype=np.float32)[:, -1]
    if _exact_in_float32(weights):
        assert np.array_equal(sums, (weights * pixels).sum(axis=1))
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-15)


def test_a_half_goes_up():
    """1/2 of a step edge: 0.5 is met exactly and becomes 1, -0.5 becomes 0."""
    image = np.zeros((64, 64), np.uint8)
    image[::2] = 1  # each output row sums to exactly 0.5
    inside = imresize(image, 0.5)[4:-4]
    assert (inside == 1).all()


def test_weights_are_a_matrix_that_resizes():
    """As model code uses them: gather and weigh; mirrored at the borders, constant and linear signals are kept."""
    indices, weights = resize_weights(20, 80, 4)
    assert indices.min() == 0
    assert indices.max() == 19
    assert indices.dtype == np.int64
    line = np.arange(20.0)
    up = (weights * line[indices]).sum(axis=1)
    assert np.allclose(up[8:-8], (np.arange(80)[8:-8] + 0.5) / 4 - 0.5)
    assert np.allclose(imresize(line[:, None], 4)[:, 0], up)


def test_what_cannot_be_resized_is_refused():
    """Dtypes, shapes, scales and sizes that make no sense."""
    good = noise((8, 8), 0)
    for bad in (good.astype(np.int16), good[0], good[:0], good[None, None]):
        with pytest.raises(SamdiffError, match="uint8, uint16, float32 or float64"):
            imresize(bad, 0.5)
    for arguments in ({}, {"scale": 0.5, "size": (4, 4)}):
        with pytest.raises(SamdiffError, match="either a scale or a size"):
            imresize(good, **arguments)
    for scale in (0, -1, float("inf"), float("nan")):
        with pytest.raises(SamdiffError, match="scale > 0"):
            imresize(good, scale)
    with pytest.raises(SamdiffError, match="at least 1 x 1"):
        imresize(good, size=(0, 4))


@pytest.mark.skipif(
    not DATA.is_dir(), reason="SAMDIFF_DATA names no folder with set5 and set14 (research use, not part of the project)"
)
@pytest.mark.parametrize(
    "folder", ["set5/LRx2_matlab", "set5/LRx4_matlab", "set5/LRx2", "set5/LRx4", "set14/LRx2", "set14/LRx4"]
)
def test_equals_files_that_matlab_wrote(folder):
    """Every pixel of every file."""
    paths = sorted((DATA / folder).glob("*.png"))
    assert paths
    for path in paths:
        lr = cv2.imread(str(path))
        s = int(folder.split("LRx")[1][0])
        hr = cv2.imread(str(path.parent.parent / "HR" / path.name))[: lr.shape[0] * s, : lr.shape[1] * s]
        assert np.array_equal(imresize(hr, 1 / s), lr), path.name


@pytest.mark.parametrize("scale", SCALES)
def test_the_order_of_two_subtractions_decides_nothing_at_the_supported_scales(scale):
    """Before, a tap's distance was (centre - left) - k: LR files made so are the same files, and so are enlarged images."""
    size = 2040
    n_out, shrink = math.ceil(size * scale), min(scale, 1.0)
    centre = np.arange(1, n_out + 1) / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - 2 / shrink)
    before = shrink * _cubic(shrink * (centre[:, None] - left[:, None] - np.arange(math.ceil(4 / shrink) + 2)))
    before /= before.sum(axis=1, keepdims=True)
    _, now = resize_weights(size, n_out, scale)
    used = np.flatnonzero(before.any(axis=0))
    before = before[:, used[0] : used[-1] + 1]
    if scale != 3:  # a multiple of 1/3 is no binary fraction: there some weights differ in the last bit, and no image does
        assert np.array_equal(now, before)
    assert np.abs(now - before).max() < 3e-16
