"""Measured values are never taken for an 8-bit image in silence: each is refused by name, by the one reader that all commands share."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from samdiff.errors import ImageError
from samdiff.pipeline.decoding.image_data import ReadConfig, decode_image

KEYS = (34735, "H", 4, (1, 1, 0, 0), True)
"""GeoKeyDirectory: what makes a GeoTIFF."""
NODATA = (42113, "s", 0, "0", True)


def tiff(pixels: np.ndarray, *tags: tuple, **facts: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, extratags=tags, **facts)
    return buffer.getvalue()


def noise(*shape: int, low: int = 0, high: int = 65536, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, shape).astype(dtype)


REFUSED = {
    "landsat, one band": (tiff(noise(20, 20, high=9000), KEYS), "GeoTIFF of 1 band of 16 bits"),
    "landsat, three bands": (
        tiff(noise(20, 20, 3, high=9000), KEYS, photometric="minisblack", planarconfig="contig"),
        "GeoTIFF of 3 bands of 16 bits",
    ),
    "rgb and near infrared": (
        tiff(noise(20, 20, 4, high=256, dtype=np.uint8), KEYS, photometric="rgb", extrasamples=("unspecified",)),
        "GeoTIFF of 4 bands of 8 bits",
    ),
    "signed": (tiff(noise(20, 20, dtype=np.int16), KEYS), "GeoTIFF of 1 band of 16 bits"),
    "nodata": (tiff(noise(20, 20, 3, high=256, dtype=np.uint8), NODATA, photometric="rgb"), "bits with a nodata value"),
    "OME": (tiff(noise(20, 20), description="<OME xmlns='x'/>", metadata=None), "OME-TIFF of 1 band of 16 bits"),
    "ImageJ": (tiff(noise(20, 20), imagej=True), "ImageJ TIFF of 1 band of 16 bits"),
    "nuclei": (tiff(noise(20, 20, high=236)), "16-bit samples from 1 to 235 of 0 to 65535"),
    "narrow but bright": (tiff(noise(20, 20, low=30000, high=33000)), "less than a sixteenth"),
    "one hot pixel": (tiff(np.where(np.arange(10000).reshape(100, 100) == 7, 65535, noise(100, 100, high=236)).astype(np.uint16)), "less than a sixteenth"),
    "dark floats": (tiff(np.linspace(0, 0.01, 400, dtype=np.float32).reshape(20, 20)), "floats from 0 to 0.01 of 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_measured_values_are_refused_by_name(name: str) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(ImageError, match=reason) as refused:
        decode_image(data, "a.tif")
    assert "stretch" in str(refused.value)


def test_dark_16_bit_png_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(20, 20, high=236)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="stretch"):
        decode_image(buffer.getvalue(), "a.png")
    kept = decode_image(buffer.getvalue(), "a.png", ReadConfig(any_range=True))
    np.testing.assert_array_equal(kept.pixels, noise(20, 20, high=236))


@pytest.mark.parametrize(
    "data",
    [
        tiff(noise(20, 20, 3), photometric="rgb"),
        tiff(noise(20, 20, 3, high=256, dtype=np.uint8), KEYS, photometric="rgb"),
        tiff(noise(20, 20, 4, high=256, dtype=np.uint8), KEYS, photometric="rgb", extrasamples=("unassalpha",)),
        tiff(noise(20, 20, high=5000)),
        tiff(np.zeros((20, 20), np.uint16)),
        tiff(np.full((20, 20), 30000, np.uint16)),
        tiff(noise(20, 20, high=256, dtype=np.uint8), imagej=True),
    ],
    ids=["16 bits", "8-bit GeoTIFF", "with alpha", "a twelfth", "black", "one colour", "8-bit ImageJ"],
)
def test_images_are_read_as_before(data: bytes) -> None:
    assert decode_image(data, "a.tif").pixels.shape[:2] == (20, 20)
