"""Comparison sheets for papers: the whole image with the boxes of the crops, zoomed crops of all methods, metrics, difference maps. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from ...errors import ConfigError, printable
from ..evaluation.metrics import psnr_y, ssim_y
from ..names import SCALES
from .contact_sheet import colour_map, contact_sheet, resize_to_width, value_bar

Box = tuple[int, int, int, int]
"""x, y, width and height in pixels."""
ImageMetric = Callable[[np.ndarray, np.ndarray], float]
_COLOURS = ((230, 60, 40), (40, 140, 230), (50, 170, 70), (230, 170, 30))
_BORDER = 3  # pixels of the sheet


def comparison(
    images: Sequence[tuple[str, np.ndarray]],
    reference: np.ndarray | None,
    boxes: Sequence[Box],
    crop_border: int = 4,
    differences: bool = True,
    width: int = 240,
    metrics: Mapping[str, ImageMetric] | None = None,
    lr: np.ndarray | None = None,
) -> np.ndarray:
    """A sheet with rows: the whole images with metrics, the crops of each box, the difference maps with their colour bar.

    Args:
        images: (label, uint8 [H, W, 3] or [H, W]), all of one size.
        reference: HR; None: no metrics and no difference maps.
        boxes: crops (x, y, width, height); empty: the square with the most detail.
        crop_border: border left out of the metrics, in pixels.
        differences: whether to add maps of |image - HR|, all with the same colour scale.
        width: of a panel in pixels.
        metrics: additional metrics for the captions, such as LPIPS, of (image, HR), uint8 [H, W, 3], not cropped.
        lr: the LR of the images, uint8 [h, w, 3] or [h, w]: drawn first, enlarged by nearest neighbour. None: no such panel.

    Returns:
        uint8 [h, w, 3].

    Raises:
        ConfigError: images of different sizes, an LR of no scale 2, 3, 4 or 8, or a box outside the images.
    """
    named = [(printable(label), _rgb(image)) for label, image in images]
    height, full_width = named[0][1].shape[:2]
    truth = None if reference is None else _rgb(reference)
    scored = named if truth is None else [*named, ("HR", truth)]
    _check_sizes(scored, boxes)
    boxes = list(boxes) or [detailed_box(scored[-1][1])]
    captions = [_caption(label, image, truth, crop_border=crop_border, metrics=metrics or {}) for label, image in scored]
    drawn = scored
    if lr is not None:
        captions.insert(0, f"LR, nearest neighbour\n{lr.shape[1]} x {lr.shape[0]}")
        drawn = [("LR", enlarged_lr(lr, height, full_width)), *scored]
    rows = [[(caption, framed(image, boxes)) for caption, (_, image) in zip(captions, drawn, strict=True)]]
    for number, box in enumerate(boxes):
        caption = f"\ncrop {number + 1}: {box[2]} x {box[3]}"
        rows.append([(label + caption, crop_panel(image, box, width=width, number=number)) for label, image in drawn])
    if truth is not None and differences:
        under_lr = [("", np.full((1, width, 3), 255, np.uint8))] * (lr is not None)
        rows.append([*under_lr, *_difference_panels(named, truth, width)])
    return np.concatenate([contact_sheet(row, len(drawn), width) for row in rows])


def enlarged_lr(lr: np.ndarray, height: int, width: int) -> np.ndarray:
    """LR enlarged by nearest neighbour to the size of its results.

    Args:
        lr: uint8 [h, w, 3] or [h, w]. Its size times 2, 3, 4 or 8 is that of the results, or exceeds it by less than the scale: MATLAB
            rounds the size of LR up, and the results are cut to HR.
        height: of the results in pixels.
        width: of the results in pixels.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ConfigError: no scale fits.
    """
    scales = [scale for scale in SCALES if scale > 1]
    exact = [scale for scale in scales if (lr.shape[0] * scale, lr.shape[1] * scale) == (height, width)]
    rounded_up = [scale for scale in scales if (-(-height // scale), -(-width // scale)) == lr.shape[:2]]
    fitting = exact or rounded_up
    if len(fitting) != 1:
        sizes = ", ".join(f"{-(-width // scale)} x {-(-height // scale)} (x{scale})" for scale in scales)
        if len(fitting) > 1:
            raise ConfigError(
                f"--lr: {lr.shape[1]} x {lr.shape[0]} pixels can be the LR of {width} x {height} at "
                f"{', '.join(f'x{scale}' for scale in fitting)}; expected a size that fits one scale; leave out --lr"
            )
        raise ConfigError(
            f"--lr: expected the LR of the images of {width} x {height} pixels, which is one of {sizes}; got "
            f"{lr.shape[1]} x {lr.shape[0]}"
        )
    return np.ascontiguousarray(_rgb(lr).repeat(fitting[0], axis=0).repeat(fitting[0], axis=1)[:height, :width])


def crop_panel(image: np.ndarray, box: Box, *, width: int, number: int = 0) -> np.ndarray:
    """A crop with a border in the colour of its box, enlarged by nearest neighbour, in its own aspect ratio.

    Args:
        image: uint8 [H, W, 3].
        box: of the crop, inside the image.
        width: of the panel with its border, in pixels.
        number: of the crop, from 0, which determines the colour as in `framed`.

    Returns:
        uint8 [h, width, 3]; narrower if the crop is more than four times as high as wide.
    """
    x, y, w, h = box
    crop = resize_to_width(np.ascontiguousarray(image[y : y + h, x : x + w]), width - 2 * _BORDER)
    panel = np.empty((crop.shape[0] + 2 * _BORDER, crop.shape[1] + 2 * _BORDER, 3), np.uint8)
    panel[:] = _COLOURS[number % len(_COLOURS)]
    panel[_BORDER:-_BORDER, _BORDER:-_BORDER] = crop
    return panel


def framed(image: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """A copy of an image uint8 [H, W, 3] with the frames of boxes, each in its own colour."""
    copy = image.copy()
    thick = max(1, image.shape[1] // 200)
    for number, (x, y, w, h) in enumerate(boxes):
        colour = _COLOURS[number % len(_COLOURS)]
        cv2.rectangle(copy, (x, y), (x + w - 1, y + h - 1), color=colour, thickness=thick)
    return copy


def detailed_box(image: np.ndarray) -> Box:
    """The square with the largest sum of gradients; its side is a quarter of the shorter side."""
    side = max(8, min(image.shape[:2]) // 4)
    side = min(side, *image.shape[:2])
    grey = image.astype(np.float32).mean(axis=2)
    detail = np.abs(cv2.Sobel(grey, cv2.CV_32F, dx=1, dy=0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, dx=0, dy=1))
    total = cv2.integral(detail)
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(x), int(y), side, side


def _check_sizes(images: Sequence[tuple[str, np.ndarray]], boxes: Sequence[Box]) -> None:
    first, (height, width) = images[0][0], images[0][1].shape[:2]
    for label, image in images:
        if image.shape[:2] != (height, width):
            raise ConfigError(
                f"compare: expected images of one size, {first} is {width} x {height}, {label} is "
                f"{image.shape[1]} x {image.shape[0]}; compare results of one input"
            )
    for x, y, w, h in boxes:
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > width or y + h > height:
            raise ConfigError(f"--crop {x},{y},{w},{h}: expected a box inside {width} x {height} pixels")


def _difference_panels(images: Sequence[tuple[str, np.ndarray]], truth: np.ndarray, width: int) -> list[tuple[str, np.ndarray]]:
    """Maps of |image - HR| with one colour scale, and its colour bar."""
    maps = [np.abs(image.astype(np.float64) - truth).mean(axis=2) for _, image in images]
    top = float(math.ceil(max(max(float(np.percentile(values, 99.5)) for values in maps), 1.0)))
    panels = [
        (f"|{label} - HR|\nmean {values.mean():.2f}", colour_map(values, top))
        for (label, _), values in zip(images, maps, strict=True)
    ]
    return [*panels, (f"|image - HR|, mean of RGB\nin levels of 255, {top:.0f} or more: bright", value_bar(top, width))]


def _caption(
    label: str, image: np.ndarray, truth: np.ndarray | None, *, crop_border: int, metrics: Mapping[str, ImageMetric]
) -> str:
    if truth is None or image is truth:
        return f"{label}\n{image.shape[1]} x {image.shape[0]}"
    psnr, ssim = psnr_y(image, truth, crop_border), ssim_y(image, truth, crop_border)
    metrics_text = [f"{psnr:.2f} dB"] * (not math.isnan(psnr)) + [f"SSIM {ssim:.4f}"] * (not math.isnan(ssim))
    first = f"{label}\n{', '.join(metrics_text) or 'too small for PSNR and SSIM'}"
    more = ", ".join(f"{name.upper()} {metric(image, truth):.4f}" for name, metric in metrics.items())
    return f"{first}\n{more}" if more else first


def _rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image[..., :3]) if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
