"""What a file states and the store does not follow is noted; impossible values are errors; a report shows measured values by their range."""

from pathlib import Path

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ConfigError
from samdiff.model.samples.raster_file import off_nodata
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.scientific.sample_format import Band, SampleFormat
from samdiff.pipeline.scientific.samples import Native, differences
from samdiff.pipeline.scientific.settings import PixelConfig, chosen_bands
from samdiff.report.stores import assembled

from ...helpers.measured import Boxes, scene, write_geotiff

BANDS = (Band("1", ""), Band("2", ""))
FORMAT = SampleFormat(dtype="uint16", bands=BANDS, ranges=((0.0, 1e4),) * 2, nodata=0.0, masked=True, view=(0,))


def native(**facts: object) -> Native:
    return Native(np.ones((4, 4, 2), np.uint16), "GeoTIFF", BANDS, **facts)


def test_another_nodata_value_and_further_bands_are_noted() -> None:
    assert differences(native(nodata=0.0), FORMAT) == ()
    assert differences(native(nodata=65535.0), FORMAT) == (
        "states the nodata value 65535, the store's is 0: pixels of 65535 count as data",
    )
    more = Native(np.ones((4, 4, 3), np.uint16), "GeoTIFF", (*BANDS, Band("3", "")))
    assert differences(more, FORMAT) == ("1 further band left out",)


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"), [("uint16", 0, [1, 1, 9]), ("uint8", 255, [0, 1, 9]), ("int16", -5, [0, 1, 9])]
)
def test_data_never_has_the_value_of_nodata(dtype: str, nodata: int, expected: list[int]) -> None:
    values = np.array([0, 1, 9], dtype)
    assert off_nodata(values, nodata).tolist() == expected
    top = np.array([np.iinfo(dtype).max], dtype)
    assert off_nodata(top, float(top[0]))[0] == top[0] - 1
    real = np.array([0.0, 2.0], np.float32)
    assert 0 < off_nodata(real, 0.0)[0] < 1e-30
    assert off_nodata(real, 0.0)[1] == 2
    assert values.tolist() == [0, 1, 9]


@pytest.mark.parametrize("value", ["-1", "0.5", "70000"])
def test_a_nodata_value_that_no_sample_can_have(tmp_path: Path, value: str) -> None:
    write_geotiff(tmp_path / "in" / "a.tif", scene())
    settings = PrepareConfig(scale=2, tile=32, pixels=PixelConfig(range="7000,12000", nodata=value))
    with pytest.raises(ConfigError, match="nodata: expected a value of uint16, the type of a.tif, got"):
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), settings)
    with pytest.raises(ConfigError, match="nodata: expected a finite number"):
        PixelConfig(nodata="1e400")


def test_a_report_shows_them_by_their_range(tmp_path: Path) -> None:
    """Not the upper eight bits, which are nearly black."""
    values = scene()
    write_geotiff(tmp_path / "in" / "a.tif", values)
    settings = PrepareConfig(scale=2, tile=32, pixels=PixelConfig(range="7000,12000", nodata="0"))
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), settings)
    store = open_store(tmp_path / "a.zarr")
    places = store.table("tiles/place")[:, 1:].astype(int)
    shown = assembled(store, "hr", np.arange(len(store)), places=places, size=values.shape[:2])
    expected = np.clip((values[40:60, 40:60].astype(float) - 7000) / 5000 * 255 + 0.5, 0, 255).astype(np.uint8)
    assert np.abs(shown[40:60, 40:60].astype(int) - expected).max() <= 1


def test_bands_are_listed_once() -> None:
    with pytest.raises(ConfigError, match=r"--bands: expected bands of '1, 2 NIR, 3', got '4'"):
        chosen_bands("4", ("1", "NIR", "3"), what="--bands")
