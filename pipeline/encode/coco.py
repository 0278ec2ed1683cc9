"""COCO's compressed run-length strings (cocoapi, `maskApi.c: rleToString`), vectorised. Pure.

From the fourth on, each run length is stored as its difference to the one two before. Numbers are signed, 5 bits per character, low
bits first; bit 32 marks that another character follows, and 48 is added to make the character printable.
"""

from __future__ import annotations

import numpy as np

from ...errors import SamdiffError


def from_string(text: str | bytes) -> np.ndarray:
    """Compressed string -> runs, int64 [R], not yet checked against a size.

    Raises:
        SamdiffError: the text is not a COCO RLE string.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text  # non-ASCII bytes are rejected below
    raw = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not raw.size:
        return raw
    last = np.flatnonzero((raw & 32) == 0)  # characters that end a number
    if raw.min() < 0 or raw.max() > 63 or not last.size or last[-1] != raw.size - 1:
        raise SamdiffError("counts: not a COCO RLE string (invalid or missing characters); the file is damaged")
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if digits.max() > 7:
        raise SamdiffError("counts: a run longer than 32 bits; the file is damaged")
    shift = 5 * (np.arange(raw.size) - np.repeat(first, digits))
    values = np.add.reduceat((raw & 31) << shift, first)
    values -= np.where(raw[last] & 16, 1 << (5 * digits), 0)  # the sign is the top bit of the last character
    values[1::2] = np.cumsum(values[1::2])  # the sums exclude the first run: maskApi.c stores differences from the fourth on
    values[2::2] = np.cumsum(values[2::2])
    return values


def to_string(counts: np.ndarray) -> str:
    """Runs, uint32 [R] -> compressed string, equal to that of pycocotools."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2].astype(np.int64)
    digits = np.ones(len(values), np.int64)
    for bits in range(4, 34, 5):
        digits += (values >= 1 << bits) | (values < -(1 << bits))
    place = np.arange(digits.sum()) - np.repeat(np.cumsum(digits) - digits, digits)
    more = place < np.repeat(digits, digits) - 1
    characters = (np.repeat(values, digits) >> (5 * place)) & 31 | more.astype(np.int64) << 5
    return (characters + 48).astype(np.uint8).tobytes().decode("ascii")
