"""Which points mode fast prompts."""

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import build_point_grid

from samdiff.pipeline.fast_grid.choice import choose_points, coarse_points
from samdiff.pipeline.fast_grid.contrast import WINDOWS, at_points, contrast


def test_contrast_is_the_distance_to_the_mean_around():
    """By a loop, windows cut at the border; and nothing where all tokens are equal."""
    tokens = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((5, 7))
    for side in WINDOWS:
        part, r = np.zeros((5, 7)), side // 2
        for y in range(5):
            for x in range(7):
                window = tokens[:, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].numpy()
                part[y, x] = np.linalg.norm(tokens[:, y, x].numpy() - window.mean((1, 2)))
        expected += part / part.mean()
    np.testing.assert_allclose(contrast(tokens).numpy(), expected, rtol=1e-5)
    assert contrast(torch.full((4, 6, 1), 3.0)).tolist() == [[0.0]] * 6


def test_values_at_points_are_bilinear():
    """A plane is met exactly; beyond the outermost centres its border goes on. One token is constant."""
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    points = torch.tensor([[0.5, 0.5], [2.25, 1.75], [5.5, 3.5], [6.0, 2.0], [-1.0, 4.0]])
    centred = torch.stack([(points[:, 0] - 0.5).clamp(0, 5), (points[:, 1] - 0.5).clamp(0, 3)])
    torch.testing.assert_close(at_points(2 * x - 3 * y, points), 2 * centred[0] - 3 * centred[1])
    assert at_points(torch.tensor([[7.0]]), points).tolist() == [7.0] * 5


def test_coarse_points_of_a_grid():
    """Every fourth of 32 x 32; all of a grid that is not finer than 8 x 8; one per cell of scattered points."""
    grid = build_point_grid(32)
    every_fourth = np.zeros((32, 32), bool)
    every_fourth[1::4, 1::4] = True
    assert sorted(coarse_points(grid)) == np.flatnonzero(every_fourth).tolist()
    for side in (1, 3, 8):
        assert sorted(coarse_points(build_point_grid(side))) == list(range(side**2))
    corner = np.array([[0.0, 0.0], [0.07, 0.06], [1.0, 1.0]])
    assert sorted(coarse_points(corner)) == [1, 2]


@pytest.mark.parametrize("share", [0, 0.1, 0.375, 1])
def test_points_of_most_contrast_are_added(share):
    """By sorting; ascending, each once; equal values in the order of the points."""
    grid, values = build_point_grid(20), np.random.default_rng(0).random(400, np.float32)
    chosen = choose_points(grid, values, share)
    best = sorted(range(400), key=lambda k: -values[k])[: round(share * 400)]
    assert chosen.tolist() == sorted({*best, *coarse_points(grid).tolist()})
    assert choose_points(grid, np.zeros(400, np.float32), share).tolist() == sorted(
        {*range(round(share * 400)), *coarse_points(grid).tolist()}
    )
