"""Bands around mask boundaries and metrics within them, against loops over pixels."""

import math

import numpy as np
import pytest

from samdiff.model.evaluation.metrics import boundary_band, edge_pixels, luma, mean_within, psnr_within, psnr_y


def blobs(seed: int, height: int = 23, width: int = 31) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.kron(random.integers(0, 4, (height // 6 + 1, width // 6 + 1)), np.ones((6, 6), int))[:height, :width]


def slow_band(labels: np.ndarray, width: int) -> np.ndarray:
    """By the definition: some edge pixel is at most `width` rows and columns away."""
    height, across = labels.shape
    edges = [
        (y, x)
        for y in range(height)
        for x in range(across)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= v < height and 0 <= u < across and labels[v, u] != labels[y, x]
    ]
    band = [[any(max(abs(y - v), abs(x - u)) <= width for v, u in edges) for x in range(across)] for y in range(height)]
    return np.array(band)


@pytest.mark.parametrize("width", [0, 1, 4])
def test_band_by_definition(width):
    labels = blobs(1).astype(np.uint16)
    expected = slow_band(labels, width)
    assert 0 < expected.sum() < expected.size or width == 4
    np.testing.assert_array_equal(boundary_band(labels, width), expected)
    np.testing.assert_array_equal(boundary_band(labels, 0), edge_pixels(labels))


def test_no_boundary():
    """One region, such as an image without masks: nothing is near a boundary; all of it is inside."""
    labels = np.zeros((20, 20), np.uint16)
    assert not boundary_band(labels).any()
    image = np.full((20, 20, 3), 9, np.uint8)
    assert math.isnan(psnr_within(image, image, boundary_band(labels), crop_border=2))
    assert math.isnan(mean_within(np.ones((20, 20), np.float32), boundary_band(labels)))


def test_psnr_of_pixels():
    """Against a mean over the pixels by a loop; everywhere it is PSNR on Y; an error elsewhere does not count."""
    random = np.random.default_rng(2)
    a, b = (random.integers(0, 256, (23, 31, 3)).astype(np.uint8) for _ in range(2))
    band = boundary_band(blobs(3), 1)
    y_a, y_b = luma(a), luma(b)
    squares = [(y_a[y, x] - y_b[y, x]) ** 2 for y in range(4, 19) for x in range(4, 27) if band[y, x]]
    assert psnr_within(a, b, band, crop_border=4) == pytest.approx(10 * math.log10(255**2 / (sum(squares) / len(squares))))
    assert psnr_within(a, b, np.ones_like(band), crop_border=4) == pytest.approx(psnr_y(a, b, 4))
    c = np.where(band[..., None], a, b)
    assert psnr_within(a, c, band, crop_border=4) == math.inf
    assert psnr_within(a, c, ~band, crop_border=0) < 20


def test_mean_of_a_map():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    chosen = values % 2 == 0
    assert mean_within(values, chosen) == 5.0
