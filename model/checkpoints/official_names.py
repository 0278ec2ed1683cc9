"""The table of tensor names: published SAM-DiffSR / SRDiff / RRDB checkpoints and samdiff.

Only names are listed; the official repositories have no licence, and none of their code is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = [("mlp.1", "time"), ("block1.block.1", "first.conv"), ("block2.block.1", "second.conv"), ("res_conv", "skip")]

# (official pattern, ours); `#` stands for a number that is the same in both
UNET_NAMES = [
    ("cond_proj", "condition"),
    ("mlp.#", "time.#"),
    *((f"downs.#.0.{theirs}", f"down.#.first.{ours}") for theirs, ours in _BLOCK),
    *((f"downs.#.1.{theirs}", f"down.#.second.{ours}") for theirs, ours in _BLOCK),
    ("downs.#.2.conv.1", "down.#.resample.conv"),
    *((f"ups.#.0.{theirs}", f"up.#.first.{ours}") for theirs, ours in _BLOCK),
    *((f"ups.#.1.{theirs}", f"up.#.second.{ours}") for theirs, ours in _BLOCK),
    ("ups.#.2.conv.0", "up.#.resample"),
    *((f"mid_block1.{theirs}", f"middle.0.{ours}") for theirs, ours in _BLOCK),
    *((f"mid_block2.{theirs}", f"middle.1.{ours}") for theirs, ours in _BLOCK),
    ("final_conv.0.block.1", "final.conv"),
    ("final_conv.1", "out"),
]
RRDB_NAMES = [
    ("conv_first", "first"),
    *((f"RRDB_trunk.#.RDB{d}.conv{c}", f"blocks.#.dense.{d - 1}.convs.{c - 1}") for d in (1, 2, 3) for c in range(1, 6)),
    ("trunk_conv", "trunk"),
    *((f"upconv{u}", f"up.{u - 1}") for u in (1, 2, 3)),
    ("HRconv", "hr"),
    ("conv_last", "last"),
]


def to_ours(state: Mapping[str, Tensor], names: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename tensors from official names to ours. KeyError for an unknown name."""
    return {_translate(name, names): value for name, value in state.items()}


def to_official(state: Mapping[str, Tensor], names: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Rename tensors from our names to the official ones."""
    return to_ours(state, [(ours, theirs) for theirs, ours in names])


def _translate(name: str, names: list[tuple[str, str]]) -> str:
    stem, _, kind = name.rpartition(".")  # kind: weight or bias
    for source, ours in names:
        match = re.fullmatch(re.escape(source).replace(r"\#", r"(\d+)"), stem)
        if match:
            for number in match.groups():
                ours = ours.replace("#", number, 1)
            return f"{ours}.{kind}"
    raise KeyError(name)
