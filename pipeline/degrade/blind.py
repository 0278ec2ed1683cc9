"""Blind degradation: twice blur, resize, noise and JPEG with random strengths, then a ringing filter. Pure.

Model and ranges: Wang et al., Real-ESRGAN, ICCV workshops 2021 (arXiv 2107.10833), section 3 and its training details, which extend
Zhang et al., BSRGAN, ICCV 2021 (arXiv 2103.14006). Blur, resizing and JPEG are OpenCV's. Differs from the paper in one place: shot
noise is drawn from the Gaussian of the Poisson distribution's mean and variance, which is many times faster.

Every resize keeps the centre of the image, so LR stays aligned with HR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Round:
    """Ranges of one round of blur, resize, noise and JPEG."""

    blur: float
    """Probability of a blur."""
    sigma: tuple[float, float]
    """Standard deviation of the blur along each axis of its ellipse, in pixels."""
    up_down_keep: tuple[float, float, float]
    """Probabilities of enlarging, shrinking and neither."""
    factor: tuple[float, float]
    """Smallest and largest scale factor, relative to HR in the first round and to LR in the second."""
    noise: tuple[float, float]
    """Standard deviation of Gaussian noise, in grey levels of 255."""
    shot: tuple[float, float]
    """Strength of shot noise; 1 corresponds to 255 photons per white pixel."""
    sinc: float = 0.1
    """Probability that the blur is a sinc filter, which rings."""
    grey: float = 0.4
    """Probability that noise is the same in all channels."""
    jpeg: tuple[int, int] = (30, 95)
    """Quality."""


FIRST = Round(blur=1.0, sigma=(0.2, 3.0), up_down_keep=(0.2, 0.7, 0.1), factor=(0.15, 1.5), noise=(1, 30), shot=(0.05, 3.0))
SECOND = Round(blur=0.8, sigma=(0.2, 1.5), up_down_keep=(0.3, 0.4, 0.3), factor=(0.3, 1.2), noise=(1, 25), shot=(0.05, 2.5))
LAST_SINC = 0.8
"""Probability of the final sinc filter."""
SHAPES = (0.70, 0.15, 0.15)
"""Probabilities of Gaussian, generalised Gaussian and plateau-shaped blurs."""
ROUND = 0.65
"""Probability that a blur is isotropic."""
GENERALISED, PLATEAU = (0.5, 4.0), (1.0, 2.0)
"""Ranges of the shape parameter beta."""
RESIZES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


def _as_lists(values: Mapping[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


RECIPE: dict[str, object] = {
    "model": "Real-ESRGAN second order",
    "version": 1,
    "first": _as_lists(asdict(FIRST)),
    "second": _as_lists(asdict(SECOND)),
    "last_sinc": LAST_SINC,
}
"""The description that a store records. Every change of the pixels increases the version."""


def blind(hr: np.ndarray, scale: int, random: np.random.Generator) -> np.ndarray:
    """Degrade a whole image.

    Args:
        hr: uint8 [H, W, 3]; H and W multiples of the scale.
        scale: s, HR pixels per LR pixel.
        random: source of all random numbers; equal states give equal bytes (with the same builds of NumPy and OpenCV).

    Returns:
        uint8 [H/s, W/s, 3].
    """
    height, width = hr.shape[0] // scale, hr.shape[1] // scale
    image = _degrade_once(hr.astype(np.float32), FIRST, random, size=hr.shape[:2], jpeg=True)
    image = _degrade_once(image, SECOND, random, size=(height, width), jpeg=False)
    ring = random.random() < LAST_SINC
    kernel = _sinc_kernel(_kernel_size(random), random)
    quality = int(random.integers(SECOND.jpeg[0], SECOND.jpeg[1] + 1))
    jpeg_last = random.random() < 0.5  # the paper's random order of the last two
    image = image if jpeg_last else _jpeg(image, quality)
    image = _resize(image, (height, width), random)
    image = _filter(image, kernel) if ring else image
    return _levels(_jpeg(image, quality) if jpeg_last else image)


def _degrade_once(
    image: np.ndarray, how: Round, random: np.random.Generator, *, size: tuple[int, ...], jpeg: bool
) -> np.ndarray:
    """One round on float32 [h, w, 3] in 0..255; the scale factor is relative to `size` (H, W)."""
    if random.random() < how.blur:
        image = _filter(image, _blur_kernel(how, random))
    low, high = how.factor
    way = random.choice(3, p=how.up_down_keep)
    factor = (random.uniform(1, high), random.uniform(low, 1), 1.0)[way]
    image = _resize(image, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))), random)
    image = _noise(image, how, random)
    return _jpeg(image, int(random.integers(how.jpeg[0], how.jpeg[1] + 1))) if jpeg else image


def _kernel_size(random: np.random.Generator) -> int:
    return int(2 * random.integers(3, 11) + 1)  # 7 to 21


def _blur_kernel(how: Round, random: np.random.Generator) -> np.ndarray:
    """A random blur kernel, float32 [k, k], that sums to 1."""
    size = _kernel_size(random)
    if random.random() < how.sinc:
        return _sinc_kernel(size, random)
    across, along = random.uniform(*how.sigma, 2)
    if random.random() < ROUND:
        along = across
    turn = random.uniform(-np.pi, np.pi)
    shape = random.choice(3, p=SHAPES)
    beta = (1.0, random.uniform(*GENERALISED), random.uniform(*PLATEAU))[shape]
    return blur_kernel(size, across=across, along=along, turn=turn, beta=beta, plateau=bool(shape == 2))


def blur_kernel(size: int, *, across: float, along: float, turn: float, beta: float = 1.0, plateau: bool = False) -> np.ndarray:
    """exp(-q^beta / 2), or 1 / (1 + q^beta) for a plateau, with q = x' C^-1 x (equations 2 and 3 of the paper). Sum 1.

    Args:
        size: k, odd.
        across: standard deviation along the ellipse's first axis, in pixels.
        along: standard deviation along its second axis.
        turn: angle of the first axis, in radians.
        beta: shape parameter; 1: Gaussian.
        plateau: whether the kernel is plateau-shaped.

    Returns:
        float32 [k, k].
    """
    y, x = np.mgrid[:size, :size] - size // 2
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    q = ((u / across) ** 2 + (v / along) ** 2) ** beta
    kernel = 1 / (1 + q) if plateau else np.exp(-q / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def _sinc_kernel(size: int, random: np.random.Generator) -> np.ndarray:
    return sinc_kernel(size, random.uniform(np.pi / (3 if size < 13 else 5), np.pi))


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """The circular low-pass filter, `w J1(w r) / (2 pi r)` (equation 6 of the paper). Sum 1.

    Args:
        size: k, odd.
        cutoff: w, in radians per pixel, up to pi.

    Returns:
        float32 [k, k].
    """
    y, x = np.mgrid[:size, :size] - size // 2
    r = np.hypot(y, x)
    # Bessel's integral, by the midpoint rule: exact to rounding for a periodic integrand
    angle = (np.arange(128) + 0.5) * (np.pi / 128)
    j1 = np.cos(angle - cutoff * r[..., None] * np.sin(angle)).mean(axis=-1)
    kernel = np.full(r.shape, cutoff**2 / (4 * np.pi))  # the limit at r = 0
    np.divide(cutoff * j1, 2 * np.pi * r, out=kernel, where=r > 0)
    return (kernel / kernel.sum()).astype(np.float32)


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _resize(image: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    how = RESIZES[random.integers(len(RESIZES))]
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=how)


def _noise(image: np.ndarray, how: Round, random: np.random.Generator) -> np.ndarray:
    """Gaussian or shot noise, in colour or the same in all channels; clipped to 0..255."""
    grey = random.random() < how.grey
    draw = random.standard_normal((*image.shape[:2], 1 if grey else 3), np.float32)
    if random.random() < 0.5:
        sigma: np.ndarray | float = random.uniform(*how.noise)
    else:
        light = image.mean(axis=2, keepdims=True) if grey else image
        sigma = random.uniform(*how.shot) * np.sqrt(np.maximum(light, 0))  # a Poisson count of mean m has variance m
    return np.clip(image + draw * np.float32(sigma), 0, 255)


def _levels(image: np.ndarray) -> np.ndarray:
    """float32 -> uint8, rounded."""
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode as JPEG and decode: float32 [H, W, 3] in 0..255 to the same."""
    _, data = cv2.imencode(".jpg", _levels(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.ascontiguousarray(decoded[..., ::-1], np.float32)
