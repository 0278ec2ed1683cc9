"""Browsing a sequence of tiles: checked indexing, and an HTML table with thumbnails for notebooks. Pure."""

from __future__ import annotations

import base64
import colorsys
import html
import operator
from collections.abc import Mapping
from typing import SupportsIndex

import cv2
import numpy as np

from ...errors import IndexKindError, PositionError, printable

_SIDE = 128  # longer side of a thumbnail, in pixels
_GOLDEN = 0.6180339887498949  # multiples modulo 1 are well separated, so the hues are easy to distinguish
_HIGHEST = 1 << 62  # positions are int64


def index_in(index: SupportsIndex, length: int, *, several: str, beyond: bool = False) -> int:
    """An index of a sequence, normalised to >= 0; -1 is the last item, as in a list.

    Args:
        index: the value in the square brackets.
        length: of the sequence.
        several: the call that returns several items at once, named in the message about slices.
        beyond: whether indices from `length` on are allowed.

    Raises:
        PositionError: the index is out of range; an `IndexError`.
        IndexKindError: the index is a slice or not an integer; a `TypeError`.
    """
    try:
        number = operator.index(index)
    except TypeError as error:
        kind = type(index).__name__
        raise IndexKindError(f"expected one integer as the index, got a {kind}; {several} returns several at once") from error
    position = number + length if number < 0 else number
    if not 0 <= position < (_HIGHEST if beyond else length):
        raise PositionError(f"index {number}: expected {-length} to {'2^62' if beyond else length - 1}; the length is {length}")
    return position


def spread(total: int, most: int) -> list[int]:
    """Up to `most` different indices in 0 … total - 1, evenly spread, ascending."""
    return sorted({round(k) for k in np.linspace(0, total - 1, min(most, total))}) if total else []


def masks_over(pixels: np.ndarray, labels: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """An image overlaid with its masks, each in a different colour, with dark lines between them.

    Args:
        pixels: uint8 [H, W, 3] RGB.
        labels: integers [H, W]; 0: no mask.
        strength: opacity of the colours, 0 … 1.

    Returns:
        uint8 [H, W, 3].
    """
    hues = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(k * _GOLDEN % 1, 0.8, 1.0) for k in range(int(labels.max(initial=0))))]
    colours = np.array(hues, np.float32)[labels] * 255
    share = np.where(labels > 0, strength, 0.0)[..., None]
    out = pixels * (1 - share) + colours * share
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    out[edge] *= 0.3
    return out.round().astype(np.uint8)


def html_table(
    title: str, facts: Mapping[str, object], tiles: Mapping[str, Mapping[str, np.ndarray]], *, note: str = ""
) -> str:
    """HTML for a notebook: a title, a table of properties, and thumbnails of tiles beside their masks. All text is escaped.

    Args:
        title: set in bold.
        facts: name -> value, one row each.
        tiles: caption -> `hr` uint8 [T, T, 3] RGB and `labels` [T, T]; tiles larger than 128 pixels are downscaled.
        note: a line below the thumbnails.
    """
    cells = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in facts.items())
    figures = "".join(
        _figure(caption, tile["hr"]) + _figure("masks", masks_over(tile["hr"], tile["labels"]))
        for caption, tile in tiles.items()
    )
    below = f"<div>{_text(note)}</div>" if note else ""
    return f"<div><b>{_text(title)}</b><table>{cells}</table><div>{figures}</div>{below}</div>"


def _figure(caption: str, pixels: np.ndarray) -> str:
    image = f'<img src="data:image/png;base64,{_png(pixels)}">'
    return f'<figure style="display:inline-block;margin:4px">{image}<figcaption><small>{_text(caption)}</small></figcaption></figure>'


def _text(value: object) -> str:
    return html.escape(printable(value))


def _png(pixels: np.ndarray) -> str:
    """Base64 of a PNG."""
    longest = max(pixels.shape[:2])
    if longest > _SIDE:
        height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[:2])
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    assert done
    return base64.b64encode(data.tobytes()).decode("ascii")
