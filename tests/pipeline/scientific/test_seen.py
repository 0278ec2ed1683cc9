"""What `samdiff masks` shows of measured values: the segmenter's view, with a note that says what it is; and 16-bit images kept by `prepare`."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.images.decode import read_ahead
from samdiff.pipeline.images.listing import list_source
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.scientific.sample_format import RGB8, Band, SampleFormat, format_in
from samdiff.pipeline.scientific.samples import Samples, filled
from samdiff.pipeline.scientific.settings import PixelConfig
from samdiff.pipeline.scientific.view import segmenter_view

from ...helpers.measured import Boxes, scene, write_geotiff

UINT16 = {"dtype": "uint16", "ranges": ((0, 65535),) * 3}


def test_masks_draws_the_view(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", scene(), names=("B4", "B3", "B2"))
    ((_, seen),) = read_ahead(list_source(tmp_path))
    assert not isinstance(seen, ImageError)
    assert (seen.pixels.dtype, seen.pixels.shape) == (np.uint8, (96, 128, 3))
    assert not seen.pixels[:, :10].any()
    assert seen.pixels[:, 10:].mean() > 80
    assert seen.notes == ("GeoTIFF: percentiles 2 to 98 of bands B4, B3, B2 are seen; 0 means no data",)


def test_colours_share_one_range() -> None:
    """A red scene stays red; bands of other names are stretched one by one. A hot pixel changes nothing."""
    values = np.stack([np.linspace(8000, 9000, 900), np.linspace(4000, 5000, 900), np.linspace(4000, 5000, 900)], axis=1)
    image = values.reshape(30, 30, 3).astype(np.uint16)
    image[0, 0] = 65535
    colours = segmenter_view(Samples(image), SampleFormat(**UINT16))
    assert colours[..., 0].mean() > 3 * colours[..., 1].mean()
    other = SampleFormat(**UINT16, bands=tuple(map(Band, ("B8", "B4", "B3"))))
    each = segmenter_view(Samples(image), other)
    np.testing.assert_allclose(each.reshape(-1, 3).mean(axis=0), 127, atol=4)
    one = SampleFormat(dtype="uint16", bands=(Band("B8"),), ranges=((0, 1),), view=(0,))
    grey = segmenter_view(Samples(image[..., :1]), one)
    assert (grey[..., 0] == grey[..., 2]).all()


def test_nodata_is_filled_by_the_nearest_valid_pixel() -> None:
    values = np.arange(25).reshape(5, 5, 1)
    valid = np.ones((5, 5), bool)
    valid[:, :2] = False
    expected = values.copy()
    expected[:, :2] = values[:, 2:3]
    np.testing.assert_array_equal(filled(values, valid), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_photographs_keep_their_depth_on_request(tmp_path: Path, suffix: str) -> None:
    """8 bits and version 1 as always, unless --keep-depth is given; then every value."""
    wide = np.random.default_rng(0).integers(0, 65536, (64, 64, 3)).astype(np.uint16)
    (tmp_path / "in").mkdir()
    assert cv2.imwrite(str(tmp_path / "in" / f"a{suffix}"), wide[..., ::-1])
    for keep in (False, True):
        settings = PrepareConfig(scale=2, tile=64, pixels=PixelConfig(keep_depth=keep))
        prepare(tmp_path / "in", tmp_path / f"{keep}.zarr", Boxes(), settings)
    plain, kept = open_store(tmp_path / "False.zarr"), open_store(tmp_path / "True.zarr")
    assert (plain.attrs["format_version"], plain.samples, "pixels" in plain.attrs) == (1, RGB8, False)
    assert (kept.attrs["format_version"], kept.samples) == (2, SampleFormat(**UINT16))
    np.testing.assert_array_equal(kept[0]["hr"], wide)
    np.testing.assert_array_equal(plain[0]["hr"], (wide.astype(np.uint32) + 128) // 257)


def test_formats_come_back_and_untrusted_ones_are_refused() -> None:
    kept = SampleFormat(
        dtype="float32",
        bands=(Band("a", "m"), Band("b")),
        ranges=((0, 1), (-2, 3)),
        nodata=float("nan"),
        masked=True,
        view=(1,),
    )
    assert format_in(kept.attributes()) == kept
    assert format_in({}) == RGB8
    assert RGB8.attributes() == {}
    good = kept.attributes()
    for name, value in (
        ("dtype", "uint32"), ("bands", []), ("bands", [{"name": "a"}]), ("bands", "ab"), ("range", [[0, 1]]), ("range", [[1, 0], [0, 1]]),
        ("range", [[0, float("inf")], [0, 1]]), ("offset", 7), ("offset", True), ("nodata", "x"), ("valid", 1), ("per", "image"), ("places", ["x"]),
        ("bands", [{"name": "x" * 1000, "unit": ""}] * 2), ("bands", [{"name": str(k), "unit": ""} for k in range(1000)]),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            format_in({**good, "pixels": {**good["pixels"], name: value}})
    with pytest.raises(ConfigError):
        format_in({**good, "sam_view": {"bands": ["c"]}})
    with pytest.raises(ConfigError):
        format_in({"pixels": good["pixels"]})
