"""Contact sheets: images side by side with captions. Pure: arrays in, one array out."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .labels import draw_text

_MARGIN, _LINE, _SHORTEST = 8, 18, 2  # pixels, pixels, lines


def contact_sheet(panels: Sequence[tuple[str, np.ndarray]], columns: int, width: int = 320) -> np.ndarray:
    """Panels in reading order on white, with captions above them.

    Args:
        panels: (caption, image); images uint8 [H, W, 3] RGB or [H, W], all of one aspect ratio. A caption may hold line breaks.
        columns: panels per row.
        width: of a panel in pixels; smaller images are resized by nearest neighbour, larger ones by area averaging.

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


def colour_map(values: np.ndarray) -> np.ndarray:
    """A map float [H, W] as colours uint8 [H, W, 3]: lowest dark, highest bright (viridis); a constant map is dark."""
    low, high = float(values.min()), float(values.max())
    scaled = ((values - low) / (high - low or 1.0) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def _cell(caption: str, image: np.ndarray, *, width: int, top: int) -> np.ndarray:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    how = cv2.INTER_NEAREST if width >= image.shape[1] else cv2.INTER_AREA
    image = cv2.resize(image, (width, height), interpolation=how)
    cell = np.full((height + top + _MARGIN, width + 2 * _MARGIN, 3), 255, np.uint8)
    cell[top : top + height, _MARGIN : _MARGIN + width] = image
    for line, text in enumerate(caption.split("\n")):
        cell = draw_text(cell, text, x=_MARGIN, y=5 + _LINE * line, width=width)
    return cell
