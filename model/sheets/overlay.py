"""Visualises masks and E_SAM: mask overlay, structure map, colour bar. Pure: arrays in, arrays out."""

from __future__ import annotations

import math

import cv2
import numpy as np

from .labels import draw_text, text_width

E_LIMIT = math.sqrt(2)
"""Range of the structure map: x_RoPE is in [-sqrt 2, sqrt 2] (`structure.rope_table`), and so is any mean of it."""

PALETTE = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
        (204, 121, 167), (120, 94, 240), (154, 205, 50), (220, 38, 127), (0, 206, 209), (160, 82, 45),
    ],
    np.uint8,
)  # fmt: skip
"""The colour-blind-safe palette of Okabe and Ito, and five more colours."""
_REACH = 6  # pixels: masks closer than this are neighbours


def mask_overlay(labels: np.ndarray, image: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """Each mask filled with a colour that differs from its neighbours', with an outline; pixels of no mask stay as they are.

    The image is grey below the fills, so that its own colours do not make those of the masks alike.

    Args:
        labels: integers [H, W]; 0 is no mask.
        image: uint8 [H, W, 3] RGB.
        opacity: of the fill, 0 to 1.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    palette = PALETTE[neighbour_colours(labels)]
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None]
    painted = ((1 - opacity) * grey + opacity * palette[labels]).round().astype(np.uint8)
    painted = np.where((labels > 0)[..., None], painted, image)
    painted[_outline(labels)] = 255
    return painted


def neighbour_colours(labels: np.ndarray) -> np.ndarray:
    """A colour number for each label, int64 [n + 1]: neighbours have different numbers if twelve colours suffice.

    Greedy colouring from the largest mask to the smallest: the first of the least used colours that no neighbour has. The entry of
    label 0 has no meaning.
    """
    count = int(labels.max(initial=0)) + 1
    pairs = [
        np.stack([labels[:, :-step].ravel(), labels[:, step:].ravel()], axis=1)
        for step in (1, _REACH)
        if step < labels.shape[1]
    ] + [np.stack([labels[:-step].ravel(), labels[step:].ravel()], axis=1) for step in (1, _REACH) if step < labels.shape[0]]
    everything = np.concatenate(pairs).astype(np.int64) if pairs else np.zeros((0, 2), np.int64)
    different = everything[(everything[:, 0] != everything[:, 1]) & (everything > 0).all(axis=1)]
    neighbours: list[set[int]] = [set() for _ in range(count)]
    for code in np.unique(different[:, 0] * count + different[:, 1]).tolist():
        a, b = divmod(code, count)
        neighbours[a].add(b)
        neighbours[b].add(a)
    chosen, used = np.zeros(count, np.int64), np.zeros(len(PALETTE), np.int64)
    done: set[int] = set()
    for label in np.argsort(-np.bincount(labels.ravel(), minlength=count), kind="stable").tolist():
        if label == 0:
            continue
        taken = np.bincount([chosen[k] for k in neighbours[label] if k in done] or [0], minlength=len(PALETTE))
        if not neighbours[label] & done:
            taken[:] = 0
        free = np.flatnonzero(taken == taken.min())
        chosen[label] = free[np.argmin(used[free])]
        used[chosen[label]] += 1
        done.add(label)
    return chosen


def structure_map(e_sam: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """E_SAM as colours: blue below 0, white at 0, red above, always on -sqrt 2 to sqrt 2; masks outlined, hatched where no mask is.

    Args:
        e_sam: float [H, W].
        labels: integers [H, W] of the same masks; 0 is no mask.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    colours = diverging(e_sam / E_LIMIT)
    height, width = labels.shape
    period = max(8, width // 60)
    rows, columns = np.ogrid[:height, :width]
    stripe = (rows + columns) % period < max(1, period // 5)
    empty = np.where(stripe[..., None], np.uint8(150), np.uint8(225))
    drawn = np.where((labels > 0)[..., None], colours, empty).astype(np.uint8)
    drawn[_outline(labels)] = 120
    return drawn


def structure_panel(e_sam: np.ndarray, labels: np.ndarray, bar_share: int = 20) -> np.ndarray:
    """`structure_map` with its colour bar below, whose height is the map's width / `bar_share`: uint8 [H + bar, W, 3]."""
    width = labels.shape[1]
    ends = f"{E_LIMIT:.2f}"
    return np.concatenate(
        [structure_map(e_sam, labels), colour_bar(f"-{ends}", "0", ends, width=width, height=max(24, width // bar_share))]
    )


def diverging(values: np.ndarray) -> np.ndarray:
    """Values [...] in -1 to 1 (beyond: clipped) as colours uint8 [..., 3]: blue, white at 0, red (the ends of matplotlib's RdBu)."""
    blue, white, red = (np.array(colour, np.float64) for colour in ((33, 102, 172), (250, 250, 250), (178, 24, 43)))
    level = np.clip(values, -1, 1)[..., None]
    return np.where(level < 0, white + (blue - white) * -level, white + (red - white) * level).round().astype(np.uint8)


def colour_bar(low: str, middle: str, high: str, width: int, height: int = 30) -> np.ndarray:
    """A bar of the colours of `diverging` with the names of its ends and its middle below, uint8 [height, width, 3]."""
    bar = np.full((height, width, 3), 255, np.uint8)
    bar[: height // 2 - 2] = diverging(np.linspace(-1, 1, width))[None]
    size = max(8, height // 2 - 2)
    for text, at in ((low, 0.0), (middle, 0.5), (high, 1.0)):
        x = round(at * (width - text_width(text, size)))
        bar = draw_text(bar, text, x=x, y=height // 2 - 1, width=width, size=size)
    return bar


def _outline(labels: np.ndarray) -> np.ndarray:
    """bool [H, W]: pixels of a mask that lie at its border, one pixel wide for each 900 of the longer side."""
    half = max(1, round(max(labels.shape) / 900))
    grown = np.pad(labels, 1, mode="edge")
    centre = grown[1:-1, 1:-1]
    border = (grown[1:-1, 2:] != centre) | (grown[2:, 1:-1] != centre)
    if half > 1:
        border = cv2.dilate(border.astype(np.uint8), np.ones((half, half), np.uint8)) > 0
    return border
