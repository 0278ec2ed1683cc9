"""Streams of random numbers: distinct, and frozen with the samples that they make."""

import ast
from pathlib import Path

import numpy as np
import torch

import samdiff
from samdiff.model.training.tasks import _noise
from samdiff.pipeline.stream.crops import plan_crops
from samdiff.pipeline.stream.order import Order
from samdiff.pipeline.stream.random_streams import Stream

FROZEN = {
    "BLOCKS": 1,
    "WINDOW": 2,
    "CROP_Y": 11,
    "CROP_X": 12,
    "FLIP_ROWS": 13,
    "FLIP_COLUMNS": 14,
    "TRANSPOSE": 15,
    "TIME": 21,
    "NOISE": 22,
    "WEIGHTS": 23,
}
CROPS = [[12, 27, 0, 1, 1], [15, 29, 1, 0, 0], [5, 30, 1, 1, 0], [30, 27, 1, 1, 0]]
ROWS = [38, 36, 22, 18, 39, 35, 23, 32, 19, 37, 21, 20]
NOISE = [0.34915292263031006, 0.3551149070262909, 0.7035984992980957]


def test_the_numbers_are_distinct_and_frozen():
    """More may come, with numbers of their own; these stay."""
    assert len({stream.value for stream in Stream.__members__.values()}) == len(Stream.__members__)
    assert {name: Stream[name].value for name in FROZEN} == FROZEN


def test_the_samples_are_frozen():
    """What the numbers of version 0.1 made: crops, order and noise."""
    assert plan_crops(np.arange(4), tile_lr=40, patch_lr=10, seed=7).tolist() == CROPS
    assert Order((50,), (8,), seed=3, window=2).locate(np.arange(12))[1].tolist() == ROWS
    np.testing.assert_allclose(_noise((3,), 5, 9).numpy(), NOISE, rtol=1e-6)
    assert _noise((3,), 5, 9).dtype == torch.float32


def test_no_stream_is_written_as_a_number():
    """Calls of `mix` and `draw` in samdiff have no whole number as their second word of randomness."""
    root, calls = Path(samdiff.__file__).parent, 0
    for file in [*(root / "pipeline").rglob("*.py"), *(root / "model").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("mix", "draw", "_permutation"):
                words = node.args[{"mix": 0, "draw": 2, "_permutation": 1}[node.func.id] :]  # type: ignore[attr-defined]
                calls += 1
                assert len(words) < 2 or not isinstance(words[1], ast.Constant), f"{file.name}:{node.lineno}"
    assert calls >= 6
