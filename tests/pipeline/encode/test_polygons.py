"""Polygons and label maps as runs: equal to pycocotools', to a decoder of our own, and to the definition."""

import numpy as np
import pytest

from samdiff.errors import SamdiffError
from samdiff.pipeline.encode.polygons import polygon_runs, union_runs
from samdiff.pipeline.encode.rle import decode, encode, label_runs


def polygons(count: int, height: int, width: int) -> list[np.ndarray]:
    """Random closed curves, some of them over the border by less than a pixel, with repeated and collinear points."""
    rng = np.random.default_rng(3)
    found = [
        np.stack([rng.uniform(-0.9, width + 0.9, k), rng.uniform(-0.9, height + 0.9, k)], axis=1)
        for k in rng.integers(3, 12, count)
    ]
    found += [np.round(points) for points in found[: count // 3]]
    found += [np.repeat(points, 2, axis=0) for points in found[: count // 3]]
    return [points.ravel() for points in found]


def test_polygons_are_those_of_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask", reason="pycocotools, whose rasterisation is the reference, is not installed")
    for height, width in ((23, 40), (64, 9), (1, 1)):
        for numbers in polygons(60, height, width):
            (expected,) = mask.frPyObjects([numbers.tolist()], height, width)
            np.testing.assert_array_equal(
                decode(polygon_runs(numbers, height, width), height, width), mask.decode(expected) == 1
            )


def test_a_rectangle_is_what_it_covers() -> None:
    """Without pycocotools: pixels whose centres lie inside."""
    expected = np.zeros((12, 15), bool)
    expected[2:7, 3:11] = True
    np.testing.assert_array_equal(decode(polygon_runs([3, 2, 11, 2, 11, 7, 3, 7], 12, 15), 12, 15), expected)
    np.testing.assert_array_equal(polygon_runs([0, 0, 15, 0, 15, 12, 0, 12], 12, 15), [0, 180])  # the whole image


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [
        ([1, 1, 5, 5], "at least 3 points"),
        ([1, 1, 5, 5, 3], "at least 3 points"),
        ([[1, 1], [5, 5], [1, 5]], "at least 3 points"),
        (["a", 1, 5, 5, 3, 1], "expected numbers"),
        ([1, 1, 5, 5, 3, None], "outside the image"),
        ([1, 1, 5, 5, 3, float("nan")], "outside the image"),
        ([1, 1, 22, 5, 3, 3], r"\(22, 5\) lies outside the image of 20 x 10 pixels"),
        ([1, 1, 5, -1.5, 3, 3], "outside the image"),
        ([1, 1, 10**400, 5, 3, 3], "expected numbers"),
        ([0, 0, 20, 10] * 60_000, "longer than"),
    ],
)
def test_what_is_no_polygon_is_an_error(numbers: list, problem: str) -> None:
    with pytest.raises(SamdiffError, match=problem):
        polygon_runs(numbers, 10, 20)


def test_unions_are_those_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.9):
        masks = [rng.random((9, 7)) < share for _ in range(4)]
        masks.append(np.zeros((9, 7), bool))
        np.testing.assert_array_equal(union_runs([encode(mask) for mask in masks], 63), encode(np.any(masks, axis=0)))
    np.testing.assert_array_equal(union_runs([], 63), [63])


def test_labels_as_runs() -> None:
    rng = np.random.default_rng(1)
    for kind in (np.uint8, np.uint16):
        labels = rng.choice(np.array([0, 3, 7, 250], kind), (11, 6))
        expected = [encode(labels == value) for value in (3, 7, 250)]
        found = label_runs(labels)
        assert [runs.tolist() for runs in found] == [runs.tolist() for runs in expected]
    assert label_runs(np.zeros((3, 4), np.uint8)) == []
    assert [runs.tolist() for runs in label_runs(np.ones((3, 4), np.uint16))] == [[0, 12]]
