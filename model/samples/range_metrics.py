"""Metrics of images beyond 8-bit RGB, in the units of their data. Pure numpy.

R is the range hi - lo of each band, as the store has it. Pixels without data are left out everywhere.

| metric | definition |
|---|---|
| psnr | 10 log10(1 / mean_b(MSE_b / R_b^2)) |
| ssim | mean over bands; C1 = (.01 R)^2, C2 = (.03 R)^2, the 11 x 11 Gaussian window of Wang et al. 2004 |
| ergas | 100 / s sqrt(mean_b(MSE_b / mu_b^2)), mu_b the mean of HR (Wald 2000); defined for values above 0 |
| spectral_angle | mean angle between the spectra of the pixels, in degrees; for two or more bands ("SAM" elsewhere, which is Segment Anything here) |
| nrmse | sqrt(MSE) / (max - min) of HR, mean over bands |
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ...pipeline.scientific.sample_format import SampleFormat

SIDE = 11
"""Shortest side for SSIM."""
NAMES = ("psnr", "ssim", "ergas", "nrmse", "spectral_angle")


def range_metrics(
    sr: np.ndarray, hr: np.ndarray, samples: SampleFormat, *, scale: int, valid: np.ndarray | None = None
) -> dict[str, float]:
    """All metrics of a result; NaN where one is not defined.

    Args:
        sr: the result, stored samples [H, W, C].
        hr: likewise.
        samples: of both.
        scale: s; borders of s pixels are left out.
        valid: bool [H, W]; None: all pixels are valid.
    """
    inner = (slice(scale, hr.shape[0] - scale), slice(scale, hr.shape[1] - scale))
    a, b = (image[inner].astype(np.float64) - samples.offset for image in (sr, hr))
    chosen = np.ones(b.shape[:2], bool) if valid is None else valid[inner]
    if not chosen.any():
        return dict.fromkeys(NAMES if samples.count > 1 else NAMES[:-1], math.nan)
    spans = np.array([high - low for low, high in samples.ranges])
    mse = np.square(a - b)[chosen].mean(axis=0)
    mean, spread = b[chosen].mean(axis=0), np.ptp(b[chosen], axis=0)
    positive = (mean > 0).all()
    found = {
        "psnr": range_psnr(sr[inner], hr[inner], samples, chosen),
        "ssim": float(np.mean([_ssim(a[..., k], b[..., k], spans[k], chosen) for k in range(samples.count)])),
        "ergas": 100 / scale * math.sqrt(float((mse / mean**2).mean())) if positive else math.nan,
        "nrmse": float((np.sqrt(mse) / spread).mean()) if (spread > 0).all() else math.nan,
    }
    return found | ({"spectral_angle": _spectral_angle(a[chosen], b[chosen])} if samples.count > 1 else {})


def range_psnr(a: np.ndarray, b: np.ndarray, samples: SampleFormat, valid: np.ndarray | None = None) -> float:
    """PSNR of two images [H, W, C] over valid pixels, bool [H, W]; NaN if there are none, infinite if they are equal there."""
    difference = a.astype(np.float64) - b
    chosen = difference.reshape(-1, samples.count) if valid is None else difference[valid]
    if not len(chosen):
        return math.nan
    spans = np.array([high - low for low, high in samples.ranges])
    relative = float(np.square(chosen / spans).mean())
    return math.inf if relative == 0 else -10 * math.log10(relative)


def conventions(samples: SampleFormat) -> dict[str, str]:
    """Metric -> its convention in one line, for tables; none for 8-bit RGB, whose metrics have other names."""
    if samples.is_rgb8:
        return {}
    low, high = min(pair[0] for pair in samples.ranges), max(pair[1] for pair in samples.ranges)
    return {
        "psnr": f"10 log10(1 / mean over bands of MSE / R^2), R the range of each band ({low:g} to {high:g}); pixels without data left out",
        "ssim": "mean over bands with the same R",
        "ergas": "100 / s sqrt(mean over bands of MSE / mean(HR)^2)",
        "spectral_angle": "mean angle between spectra in degrees",
        "nrmse": "sqrt(MSE) / (max - min of HR), mean over bands",
    }


def _ssim(x: np.ndarray, y: np.ndarray, span: float, valid: np.ndarray) -> float:
    """Mean over the windows that hold valid pixels only; NaN if there are none."""
    if min(x.shape) < SIDE:
        return math.nan
    whole = cv2.erode(valid.astype(np.uint8), np.ones((SIDE, SIDE), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    inside = whole[5:-5, 5:-5] > 0
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y, cov = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2, _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(values[inside].mean()) if inside.any() else math.nan


def _blur(plane: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(plane, (SIDE, SIDE), 1.5, borderType=cv2.BORDER_REFLECT)[5:-5, 5:-5]


def _spectral_angle(a: np.ndarray, b: np.ndarray) -> float:
    """Mean angle in degrees between spectra [n, C]; pixels whose spectrum is 0 are left out."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    there = lengths > 0
    if not there.any():
        return math.nan
    cosine = np.clip((a * b).sum(axis=1)[there] / lengths[there], -1, 1)
    return float(np.degrees(np.arccos(cosine)).mean())
