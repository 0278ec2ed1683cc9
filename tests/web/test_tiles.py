"""The tiles and weights of the page are those of `samdiff infer`, in Node.js without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import samdiff
from samdiff.model.inference.tile_weights import plan_tiles
from samdiff.pipeline.degrade.imresize import resize_weights

TILES = Path(samdiff.__file__).parent / "web" / "tiles.js"


def in_node(tmp_path: Path, expression: str) -> object:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    shutil.copyfile(TILES, tmp_path / "tiles.mjs")  # a module by its suffix
    code = f"import * as t from './tiles.mjs'; console.log(JSON.stringify({expression}))"
    done = subprocess.run([node, "--input-type=module", "-e", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_tiles_and_weights(tmp_path):
    """Lengths whose tiles start at halves, where Python and JavaScript round differently; one shorter than a tile; another scale."""
    cases = [
        (64, 64, 16, 4),
        (65, 64, 16, 4),
        (113, 64, 16, 4),
        (161, 64, 16, 4),
        (1027, 64, 16, 4),
        (90, 40, 16, 2),
        (77, 33, 16, 3),
    ]
    found = in_node(tmp_path, f"{json.dumps(cases)}.map(c => t.axis(...c)).map(a => [a.starts, a.weights.map(w => [...w])])")
    for (length, size, overlap, scale), (starts, weights) in zip(cases, found, strict=True):
        rows = plan_tiles(length, length, scale, multiple=scale, tile=size, overlap=overlap).rows
        assert tuple(starts) == rows.starts_lr
        assert np.abs(np.array(weights) - rows.weights).max() < 1e-6


def test_bicubic_taps(tmp_path):
    """The matrix of the bicubic enlargement along an axis is MATLAB's, with its mirrored borders."""
    found = in_node(tmp_path, "[2, 3, 4].map(s => t.bicubicTaps(7, s)).map(b => [[...b.index], [...b.weight]])")
    for scale, (index, weight) in zip((2, 3, 4), found, strict=True):
        ours, expected = np.zeros((7 * scale, 7)), np.zeros((7 * scale, 7))
        rows = np.arange(7 * scale)[:, None]
        np.add.at(ours, (rows, np.reshape(index, (-1, 4))), np.reshape(weight, (-1, 4)))
        np.add.at(expected, (rows, resize_weights(7, 7 * scale, scale)[0]), resize_weights(7, 7 * scale, scale)[1])
        assert np.abs(ours - expected).max() < 1e-6
