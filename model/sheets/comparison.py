"""Comparison sheets for papers: the whole image with the boxes of the crops, zoomed crops of all methods, metrics, difference maps. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from ...errors import ConfigError
from ..evaluation.metrics import psnr_y, ssim_y
from .contact_sheet import colour_map, contact_sheet

Box = tuple[int, int, int, int]
ImageMetric = Callable[[np.ndarray, np.ndarray], float]
_COLOURS = ((230, 60, 40), (40, 140, 230), (50, 170, 70), (230, 170, 30))


def comparison(
    images: Sequence[tuple[str, np.ndarray]],
    reference: np.ndarray | None,
    boxes: Sequence[Box],
    crop_border: int = 4,
    differences: bool = True,
    width: int = 240,
    metrics: Mapping[str, ImageMetric] | None = None,
) -> np.ndarray:
    """A sheet with rows: the whole images with metrics, the crops of each box, the difference maps.

    Args:
        images: (label, uint8 [H, W, 3] or [H, W]), all of one size.
        reference: HR; None: no metrics and no difference maps.
        boxes: crops (x, y, width, height); empty: the square with the most detail.
        crop_border: border left out of the metrics, in pixels.
        differences: whether to add maps of |image - HR|, all with the same colour scale.
        width: of a panel in pixels.
        metrics: additional metrics for the captions, such as LPIPS, of (image, HR), uint8 [H, W, 3], not cropped.

    Returns:
        uint8 [h, w, 3].

    Raises:
        ConfigError: images of different sizes, or a box outside them.
    """
    named = [(label, _rgb(image)) for label, image in images]
    height, full_width = named[0][1].shape[:2]
    everything = [*named, ("HR", _rgb(reference))] if reference is not None else named
    for label, image in everything:
        if image.shape[:2] != (height, full_width):
            raise ConfigError(
                f"compare: expected images of one size, {named[0][0]} is {full_width} x {height}, {label} is "
                f"{image.shape[1]} x {image.shape[0]}; compare results of one input"
            )
    for x, y, w, h in boxes:
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > full_width or y + h > height:
            raise ConfigError(f"--crop {x},{y},{w},{h}: expected a box inside {full_width} x {height} pixels")
    boxes = list(boxes) or [detailed_box(everything[-1][1])]
    captions = [
        _caption(label, image, reference, crop_border=crop_border, metrics=metrics or {}) for label, image in everything
    ]
    panels = [(caption, _framed(image, boxes)) for caption, (_, image) in zip(captions, everything, strict=True)]
    for number, (x, y, w, h) in enumerate(boxes, start=1):
        side = max(w, h)
        for label, image in everything:
            crop = np.full((side, side, 3), 255, np.uint8)
            crop[:h, :w] = image[y : y + h, x : x + w]
            panels.append((f"{label}\ncrop {number}: {w} x {h}", _bordered(crop, _COLOURS[(number - 1) % len(_COLOURS)])))
    if reference is not None and differences:
        errors = [np.abs(image.astype(np.float64) - _rgb(reference)).mean(axis=2) for _, image in named]
        top = max(max(float(np.percentile(error, 99.5)) for error in errors), 1.0)
        for (label, _), error in zip(named, errors, strict=True):
            scaled = np.minimum(error, top)
            scaled[0, 0], scaled[-1, -1] = 0, top  # the same colour scale for all maps
            panels.append((f"|{label} - HR|\nbright = {top:.0f}/255, mean {error.mean():.2f}", colour_map(scaled)))
    rows = [panels[start : start + len(everything)] for start in range(0, len(panels), len(everything))]
    return np.concatenate([contact_sheet(row, len(everything), width) for row in rows])


def detailed_box(image: np.ndarray) -> Box:
    """The square with the largest sum of gradients; its side is a quarter of the shorter side."""
    side = max(8, min(image.shape[:2]) // 4)
    side = min(side, *image.shape[:2])
    grey = image.astype(np.float32).mean(axis=2)
    detail = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    total = cv2.integral(detail)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(x), int(y), side, side


def _caption(
    label: str, image: np.ndarray, reference: np.ndarray | None, *, crop_border: int, metrics: Mapping[str, ImageMetric]
) -> str:
    if reference is None or label == "HR":
        return f"{label}\n{image.shape[1]} x {image.shape[0]}"
    truth = _rgb(reference)
    psnr, ssim = psnr_y(image, truth, crop_border), ssim_y(image, truth, crop_border)
    metrics_text = [f"{psnr:.2f} dB"] * (not math.isnan(psnr)) + [f"SSIM {ssim:.4f}"] * (not math.isnan(ssim))
    first = f"{label}\n{', '.join(metrics_text) or 'too small for PSNR and SSIM'}"
    more = ", ".join(f"{name.upper()} {metric(image, truth):.4f}" for name, metric in metrics.items())
    return f"{first}\n{more}" if more else first


def _framed(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    framed = image.copy()
    thick = max(1, image.shape[1] // 200)
    for number, (x, y, w, h) in enumerate(boxes):
        cv2.rectangle(framed, (x, y), (x + w - 1, y + h - 1), _COLOURS[number % len(_COLOURS)], thick)
    return framed


def _bordered(crop: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return cv2.copyMakeBorder(crop, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=colour)


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., :3]) if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
