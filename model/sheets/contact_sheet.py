"""Contact sheets: images side by side with captions. Pure: arrays in, one array out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .labels import draw_text, text_width

_MARGIN, _LINE, _SHORTEST = 8, 18, 2  # pixels, pixels, lines
_TALLEST = 4  # times the width of its panel
_BAR = 16  # pixels
_FONT, _SMALLEST_FONT = 13, 9  # pixels


def contact_sheet(panels: Sequence[tuple[str, np.ndarray]], columns: int, width: int = 320) -> np.ndarray:
    """Panels in reading order on white, with captions above them.

    Args:
        panels: (caption, image); images uint8 [H, W, 3] RGB or [H, W]. A caption may hold line breaks. Its font is reduced if it is
            wider than the panel; the middle of what is still too long is replaced by `…`.
        columns: panels per row.
        width: of a panel in pixels; smaller images are resized by nearest neighbour, larger ones by area averaging. An image more
            than four times as high as it is wide is drawn narrower, four times as high as the panel is wide.

    Returns:
        uint8 [h, w, 3] RGB.
    """
    lines = max([_SHORTEST, *(caption.count("\n") + 1 for caption, _ in panels)])
    cells = [_cell(caption, image, width=width, top=8 + _LINE * lines) for caption, image in panels]
    height = max(cell.shape[0] for cell in cells)
    blank = np.full((height, width + 2 * _MARGIN, 3), 255, np.uint8)
    cells += [blank] * (-len(cells) % columns)
    padded = [np.concatenate([cell, blank[cell.shape[0] :]]) for cell in cells]
    rows = [np.concatenate(padded[start : start + columns], axis=1) for start in range(0, len(padded), columns)]
    return np.concatenate(rows)


def resize_to_width(image: np.ndarray, width: int) -> np.ndarray:
    """An image [H, W, 3] with a width in pixels and its own aspect ratio, at most four times as high as `width`.

    Enlarged by nearest neighbour, reduced by area averaging.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if height > _TALLEST * width:
        height = _TALLEST * width
        width = max(1, round(image.shape[1] * height / image.shape[0]))
    how = cv2.INTER_NEAREST if width >= image.shape[1] else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=how)


def colour_map(values: np.ndarray, top: float | None = None) -> np.ndarray:
    """A map float [H, W] as colours uint8 [H, W, 3] of viridis.

    Args:
        values: the map.
        top: if given, colours run from 0 (dark) to this value (bright), and values beyond are clipped. None: from the lowest value to
            the highest; a constant map is dark.
    """
    low, high = (0.0, top) if top is not None else (float(values.min()), float(values.max()))
    scaled = (np.clip((values - low) / (high - low or 1.0), 0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def value_bar(top: float, width: int) -> np.ndarray:
    """The colour bar of `colour_map(values, top)`, uint8 [34, width, 3]: 0 at the left, `top` at the right, their values below.

    The value in the middle is written if it has room.
    """
    bar = np.full((_BAR + _LINE, width, 3), 255, np.uint8)
    bar[:_BAR] = colour_map(np.linspace(0, top, width)[None], top)
    ticks = [("0", 0.0), (f"{top:.3g}", 1.0)]
    if sum(text_width(text, _FONT) for text in (f"{top / 2:.3g}", *(text for text, _ in ticks))) + 4 * _MARGIN <= width:
        ticks.append((f"{top / 2:.3g}", 0.5))
    for text, at in ticks:
        bar = draw_text(bar, text, x=round(at * (width - text_width(text, _FONT))), y=_BAR + 1, width=width, size=_FONT)
    return bar


def _cell(caption: str, image: np.ndarray, *, width: int, top: int) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    image = resize_to_width(image, width)
    cell = np.full((image.shape[0] + top + _MARGIN, width + 2 * _MARGIN, 3), 255, np.uint8)
    cell[top : top + image.shape[0], _MARGIN : _MARGIN + image.shape[1]] = image
    for line, text in enumerate(caption.split("\n")):
        size = next((size for size in range(_FONT, _SMALLEST_FONT, -1) if text_width(text, size) <= width), _SMALLEST_FONT)
        cell = draw_text(cell, text, x=_MARGIN, y=5 + _LINE * line, width=width, size=size)
    return cell
