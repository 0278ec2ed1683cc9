"""Places of tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samdiff.errors import ConfigError
from samdiff.pipeline.degrade.tiles import tile_grid


@given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 40), st.integers(1, 12), st.data())
def test_tiles_cover_everything_and_stay_inside(scale, rows_lr, columns_lr, tile_lr, data):
    """Each pixel of an image that holds a tile lies in one; all corners are on the LR grid; the borders are touched."""
    stride_lr = data.draw(st.integers(1, tile_lr))
    height, width, tile = rows_lr * scale, columns_lr * scale, tile_lr * scale
    corners = tile_grid(height, width, tile, scale, stride_lr * scale)
    assert corners.dtype == np.int32
    assert corners.shape[1:] == (2,)
    if min(height, width) < tile:
        assert len(corners) == 0
        return
    assert (corners % scale == 0).all()
    covered = np.zeros((height, width), int)
    for y, x in corners:
        assert covered[y : y + tile, x : x + tile].shape == (tile, tile)
        covered[y : y + tile, x : x + tile] += 1
    assert covered.min() == 1
    assert len(np.unique(corners, axis=0)) == len(corners)
    assert corners.tolist() == sorted(corners.tolist())


def test_no_more_tiles_than_needed():
    """Without a stride: as many as fit, and one more per axis for the rest, flush with the border."""
    assert tile_grid(640, 960, 320, 4).tolist() == [[0, 0], [0, 320], [0, 640], [320, 0], [320, 320], [320, 640]]
    assert tile_grid(324, 640, 320, 4).tolist() == [[0, 0], [0, 320], [4, 0], [4, 320]]
    assert tile_grid(320, 320, 320, 4).tolist() == [[0, 0]]
    assert len(tile_grid(1356, 2040, 320, 4)) == 5 * 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((641, 640, 320, 4), "height: expected a multiple of the scale 4, got 641"),
        ((640, 640, 322, 4), "tile: "),
        ((640, 640, 320, 4, 6), "stride: expected a multiple"),
        ((640, 640, 320, 4, 640), "leaves gaps"),
        ((640, 640, 320, 4, 0), "leaves gaps"),
        ((640, 640, 0, 4), "stride"),
    ],
)
def test_lengths_off_the_scale_are_refused(arguments, says):
    """An LR tile must show exactly what its HR tile shows."""
    with pytest.raises(ConfigError, match=says):
        tile_grid(*arguments)
