"""Metrics with the store's range, against their definitions by plain loops; invalid pixels are out everywhere."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from samdiff.model.samples.range_metrics import range_metrics
from samdiff.pipeline.scientific.sample_format import Band, SampleFormat

FORMAT = SampleFormat(
    dtype="uint16", bands=(Band("a"), Band("b")), ranges=((1000, 5000), (0, 8000)), masked=True, nodata=0, view=(0,)
)


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    hr = random.integers(1000, 5000, (40, 36, 2)).astype(np.uint16)
    return (hr + random.integers(0, 300, hr.shape)).astype(np.uint16), hr


def test_definitions() -> None:
    sr, hr = pair()
    found = range_metrics(sr, hr, FORMAT, scale=4)
    a, b = (image[4:-4, 4:-4].astype(float) for image in (sr, hr))
    mse = [np.mean((a[..., k] - b[..., k]) ** 2) for k in range(2)]
    assert found["psnr"] == pytest.approx(-10 * math.log10((mse[0] / 4000**2 + mse[1] / 8000**2) / 2))
    ergas = 25 * math.sqrt(np.mean([mse[k] / b[..., k].mean() ** 2 for k in range(2)]))
    assert found["ergas"] == pytest.approx(ergas)
    angles = [
        math.degrees(math.acos(min(1, float(p @ q) / math.sqrt(float(p @ p) * float(q @ q)))))
        for p, q in zip(a.reshape(-1, 2), b.reshape(-1, 2), strict=True)
    ]
    assert found["spectral_angle"] == pytest.approx(np.mean(angles), rel=1e-6)
    assert found["nrmse"] == pytest.approx(np.mean([math.sqrt(mse[k]) / np.ptp(b[..., k]) for k in range(2)]))


def test_ssim_as_scikit_image_has_it() -> None:
    sr, hr = pair()
    a, b = (image[4:-4, 4:-4].astype(float) for image in (sr, hr))
    expected = []
    for k, span in enumerate((4000, 8000)):
        how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True, "win_size": 11}
        _, whole = structural_similarity(a[..., k], b[..., k], data_range=span, **how)
        expected.append(whole[5:-5, 5:-5].mean())
    assert range_metrics(sr, hr, FORMAT, scale=4)["ssim"] == pytest.approx(np.mean(expected), abs=1e-4)


def test_invalid_pixels_do_not_count() -> None:
    """Whatever they hold, and they hold much."""
    sr, hr = pair()
    valid = np.ones(hr.shape[:2], bool)
    valid[10:14, 5:25] = False
    spoiled = sr.copy()
    spoiled[~valid] = 65535
    before, after = (range_metrics(image, hr, FORMAT, scale=2, valid=valid) for image in (sr, spoiled))
    assert before == after
    assert range_metrics(spoiled, hr, FORMAT, scale=2)["psnr"] < before["psnr"] - 10
    assert all(math.isnan(value) for value in range_metrics(sr, hr, FORMAT, scale=2, valid=~valid & False).values())


def test_equal_images() -> None:
    _, hr = pair()
    found = range_metrics(hr, hr, FORMAT, scale=2)
    assert (found["psnr"], found["ssim"], found["ergas"], found["nrmse"]) == (math.inf, 1, 0, 0)
    assert found["spectral_angle"] == pytest.approx(0, abs=1e-5)
