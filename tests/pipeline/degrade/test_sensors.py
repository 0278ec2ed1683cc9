"""Degradations of measured values: MATLAB's bicubic on uint16 against a plain loop, a sensor's blur and k-space against their definitions."""

import math

import numpy as np
import pytest

from samdiff.errors import ConfigError
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.degrade.invalid import margin_of, usable_pixels
from samdiff.pipeline.degrade.recipes import degrade
from samdiff.pipeline.degrade.sensors import kspace, mtf, mtf_sigma


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def plain_pass(line: list[int], scale: float) -> list[int]:
    """One pass of `imresize` over a line of uint16 as its documentation describes it: Python numbers, one output at a time."""
    n, out = len(line), []
    width = 4 / min(scale, 1)
    for i in range(1, math.ceil(n * scale) + 1):
        centre = i / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(centre - width / 2)
        places = [left + k for k in range(math.ceil(width) + 2)]
        weights = [min(scale, 1) * cubic(min(scale, 1) * (centre - place)) for place in places]
        total = sum(weights)
        period = list(range(n)) + list(range(n - 1, -1, -1))
        value = 0.0
        for weight, place in zip(weights, places, strict=True):
            value += weight / total * line[period[(place - 1) % (2 * n)]]
        out.append(min(65535, max(0, math.floor(value + 0.5))))
    return out


@pytest.mark.parametrize("scale", [1 / 2, 1 / 3, 1 / 4, 1 / 8, 2, 4])
@pytest.mark.parametrize("bands", [1, 5])
def test_bicubic_on_uint16_bit_for_bit(scale: float, bands: int) -> None:
    """Rounded to uint16 after each pass, halves up; full contrast, so that it also clips."""
    image = np.random.default_rng(3).choice([0, 1, 2, 9000, 32767, 65534, 65535], (24, 16, bands)).astype(np.uint16)
    image[4:12] = np.random.default_rng(4).integers(0, 65536, (8, 16, bands))
    expected = []
    for band in range(bands):
        rows = [plain_pass(column, scale) for column in image[..., band].T.tolist()]  # along the first axis
        expected.append([plain_pass(list(line), scale) for line in zip(*rows, strict=True)])
    found = imresize(image, scale)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, np.moveaxis(np.array(expected), 0, -1))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("gain", [0.26, 0.4])
def test_mtf_has_its_gain_at_the_lr_nyquist_frequency(scale: int, gain: float) -> None:
    """A cosine of period 2 s, at its crest in the centres of LR pixels, comes out with the gain as its amplitude, alternating."""
    y = np.arange(40 * scale)
    wave = np.cos(np.pi * (y - (scale - 1) / 2) / scale)
    image = (np.broadcast_to(wave[:, None, None], (len(wave), 6 * scale, 1)) * 100).astype(np.float32)
    low = mtf(image, scale, [gain])[10:30, 2, 0]
    np.testing.assert_allclose(low, 100 * gain * (-1.0) ** np.arange(10, 30), rtol=0.01)
    assert mtf_sigma(0.26, 4) == pytest.approx(2.09, abs=0.005)


def test_mtf_per_band_and_on_integers() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (32, 24, 2)).astype(np.uint16)
    both = mtf(image, 2, [0.2, 0.4])
    assert both.dtype == np.uint16
    for band, gain in enumerate((0.2, 0.4)):
        np.testing.assert_array_equal(both[..., band : band + 1], mtf(image[..., band : band + 1], 2, [gain]))
    assert (mtf(np.full((16, 16, 3), 65535, np.uint16), 4, [0.26]) == 65535).all()
    with pytest.raises(ConfigError, match="expected 1 or 2 numbers, one per band, got 3"):
        mtf(image, 2, [0.2, 0.3, 0.4])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_kspace_of_a_band_limited_image_is_its_samples(scale: int) -> None:
    """Waves that LR can hold come out as their values at the centres of LR pixels, between HR pixels for an even scale."""
    height, width = 16 * scale, 12 * scale

    def wave(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 1000 + 200 * np.cos(2 * np.pi * 3 * y / height + 0.4) + 100 * np.sin(2 * np.pi * 2 * x / width)

    y, x = np.mgrid[:height, :width]
    centres = np.mgrid[: height // scale, : width // scale] * scale + (scale - 1) / 2
    low = kspace(wave(y, x)[..., None].astype(np.float32), scale)[..., 0]
    np.testing.assert_allclose(low, wave(*centres), rtol=1e-5)


def test_kspace_of_signed_values() -> None:
    """The transform is of the file's values: stored + 32768 stays aligned with them; a magnitude is not negative."""
    raw = np.abs(np.random.default_rng(1).normal(300, 100, (32, 32, 1))).round().astype(np.int32)
    plain, stored = kspace(raw.astype(np.uint16), 2), kspace((raw + 32768).astype(np.uint16), 2, offset=32768)
    np.testing.assert_array_equal(stored.astype(int) - 32768, plain)


def test_usable_pixels_against_the_kernel() -> None:
    """An LR pixel is usable if changing invalid pixels cannot change it; an HR pixel if it is valid and so is its LR pixel."""
    scale, random = 4, np.random.default_rng(5)
    valid = random.random((48, 64)) > 0.004
    image = random.random((48, 64))
    other = np.where(valid, image, random.random((48, 64)) * 50)
    same = np.isclose(imresize(image, 1 / scale), imresize(other, 1 / scale))
    usable = usable_pixels(valid, scale)
    assert not (usable & ~valid).any()
    assert not (usable & ~same.repeat(scale, axis=0).repeat(scale, axis=1)).any()
    assert usable.mean() > 0.2
    assert usable_pixels(np.ones((8, 8), bool), 4).all()
    wide = usable_pixels(valid, scale, margin_of("mtf", scale, [0.2, 0.4]))
    low, spoiled = (mtf(each[..., None].astype(np.float32), scale, [0.2])[..., 0] for each in (image, other))
    assert not (wide & ~(low == spoiled).repeat(scale, axis=0).repeat(scale, axis=1)).any()
    assert wide.any()


def test_names(tmp_path) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (16, 16, 2)).astype(np.uint16)
    np.testing.assert_array_equal(degrade(image, "mtf", 2, gains=(0.3,)), mtf(image, 2, [0.3]))
    np.testing.assert_array_equal(degrade(image, "kspace", 2), kspace(image, 2))
    np.testing.assert_array_equal(degrade(image, "bicubic", 2), imresize(image, 0.5))
