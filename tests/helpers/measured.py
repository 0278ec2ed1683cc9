"""Small files of measured values, written as the instruments' software does."""

import io
from pathlib import Path

import numpy as np
import pytest

from samdiff.pipeline.encode.rle import encode

ORIGIN, PIXEL = (500_000.0, 4_600_000.0), 30.0


class Boxes:
    """A segmenter that keeps what it was shown, and finds one box in each image."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def describe(self):
        return {"name": "boxes"}

    def generate_batch(self, images):
        for image in images:
            self.seen.append(image.copy())
            mask = np.zeros(image.shape[:2], bool)
            mask[3:20, 5:30] = True
            yield [{"segmentation": {"size": list(mask.shape), "counts": encode(mask).tolist()}, "predicted_iou": 0.9}]


def scene(height: int = 96, width: int = 128, bands: int = 3, seed: int = 0) -> np.ndarray:
    """uint16 [H, W, bands]: smooth ground and edges between 7000 and 12000, with a border of zeros at the left."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    layers = []
    for band in range(bands):
        waves = 1500 * np.sin(x / (7 + band)) + 800 * np.cos(y / 5) + 600 * ((x // 16 + y // 12) % 2)
        layers.append(9000 + waves + random.normal(0, 30, (height, width)))
    values = np.stack(layers, axis=-1).round().astype(np.uint16)
    values[:, :10] = 0
    return values


def write_geotiff(path: Path, values: np.ndarray, *, nodata: float | None = None, names: tuple[str, ...] = ()) -> Path:
    """[H, W, C] in UTM zone 21 N, LZW."""
    rasterio = pytest.importorskip("rasterio", reason="needs samdiff[geo]")
    height, width, count = values.shape
    transform = rasterio.transform.from_origin(*ORIGIN, PIXEL, PIXEL)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"crs": "EPSG:32621", "transform": transform, "nodata": nodata, "compress": "lzw"}
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype.name, **facts
    ) as file:
        file.write(np.moveaxis(values, -1, 0))
        for number, name in enumerate(names, start=1):
            file.set_band_description(number, name)
    return path


def tiff_bytes(values: np.ndarray, **facts: object) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="needs samdiff[microscopy]")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **facts)
    return buffer.getvalue()
