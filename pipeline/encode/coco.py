"""COCO's compressed run lengths (cocoapi, `maskApi.c: rleToString`), whole arrays at a time. Pure.

Each run but the first three is written as its difference to the run two before, as a signed number of 5 bits per character, low
bits first; 32 marks that more follow, and 48 is added to make it printable.
"""

from __future__ import annotations

import numpy as np

from ...errors import SamdiffError


def from_string(text: str | bytes) -> np.ndarray:
    """Compressed string -> runs, int64 [R], not yet checked against a size.

    Raises:
        SamdiffError: the text is no such string.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text  # no such character is allowed below
    raw = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not raw.size:
        return raw
    last = np.flatnonzero((raw & 32) == 0)  # characters that end a number
    if raw.min() < 0 or raw.max() > 63 or not last.size or last[-1] != raw.size - 1:
        raise SamdiffError("counts: not a COCO RLE string (foreign or missing characters); the file is damaged")
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > 7:
        raise SamdiffError("counts: a run longer than 32 bits; the file is damaged")
    shift = 5 * (np.arange(raw.size) - np.repeat(first, digits))
    values = np.add.reduceat((raw & 31) << shift, first)
    values -= np.where(raw[last] & 16, 1 << (5 * digits), 0)  # the sign is the top bit of the last character
    values[1::2] = np.cumsum(values[1::2])  # run 2 stands alone: maskApi.c takes differences from the fourth run on
    values[2::2] = np.cumsum(values[2::2])
    return values


def to_string(counts: np.ndarray) -> str:
    """Runs, uint32 [R] -> compressed string, equal to pycocotools' own."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2].astype(np.int64)
    digits = np.ones(len(values), np.int64)
    for bits in range(4, 34, 5):
        digits += (values >= 1 << bits) | (values < -(1 << bits))
    place = np.arange(digits.sum()) - np.repeat(np.cumsum(digits) - digits, digits)
    more = place < np.repeat(digits, digits) - 1
    characters = (np.repeat(values, digits) >> (5 * place)) & 31 | more.astype(np.int64) << 5
    return (characters + 48).astype(np.uint8).tobytes().decode("ascii")
