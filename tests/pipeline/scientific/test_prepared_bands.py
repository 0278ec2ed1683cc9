"""From measured values to a store of format version 2, and back: nothing lost, nothing guessed."""

from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from samdiff import open_store
from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.export.export import export_folder, export_hdf5
from samdiff.pipeline.prepare.info import store_facts, store_lines
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.scientific.settings import PixelConfig
from samdiff.pipeline.shards.verify import verify_store
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.measured import Boxes, scene, tiff_bytes, write_geotiff

NAMES = ("B4", "B3", "B2")


def config(**pixels: object) -> PrepareConfig:
    return PrepareConfig(scale=2, tile=32, pixels=PixelConfig(**pixels))


@pytest.fixture(scope="module")
def landsat(tmp_path_factory: pytest.TempPathFactory):
    """(store, values, segmenter) of one scene with a border of zeros."""
    folder = tmp_path_factory.mktemp("landsat")
    values = scene()
    write_geotiff(folder / "in" / "scene.tif", values, names=NAMES)
    boxes = Boxes()
    prepare(folder / "in", folder / "a.zarr", boxes, config(range="7000,12000", nodata="0"))
    return folder / "a.zarr", values, boxes


def test_the_store_holds_the_values(landsat) -> None:
    path, values, _ = landsat
    store = open_store(path)
    assert (store.attrs["format_version"], store.samples.dtype, store.samples.names) == (2, "uint16", NAMES)
    for tile in store:
        _, y, x = tile["place"]
        own = values[y : y + 32, x : x + 32]
        np.testing.assert_array_equal(tile["hr"][own > 0], own[own > 0])
        assert tile["hr"].min() > 6000, "nodata was filled"
        assert not tile["valid"][(own == 0).any(axis=2)].any()
    assert store.read_tiles("valid", range(len(store))).mean() > 0.5


def test_lr_pixels_near_nodata_are_not_compared(landsat) -> None:
    """Bicubic by 2 reaches 3 pixels beyond an LR pixel's own two; the border ends at column 10."""
    store = open_store(landsat[0])
    first = next(tile for tile in store if tile["place"][2] == 0)
    assert not first["valid"][:, :13].any()
    assert first["valid"][:, 14:].all()


def test_the_place_is_kept(landsat) -> None:
    store = open_store(landsat[0])
    np.testing.assert_array_equal(store.table("images/transform"), [[30, 0, 500_000, 0, -30, 4_600_000]])
    assert store.table("images/crs").tolist() == [0]
    assert "UTM zone 21N" in store.attrs["crs"][0]


def test_the_segmenter_sees_percentiles_of_valid_pixels(landsat) -> None:
    _, values, boxes = landsat
    seen = boxes.seen[0]
    assert (seen.dtype, seen.shape) == (np.uint8, values.shape)
    assert not seen[:, :10].any(), "invalid pixels are black"
    for band in range(3):
        valid = values[:, 10:, band].astype(float)
        low, high = np.percentile(valid, (2, 98))
        expected = np.clip((valid - low) / (high - low) * 255 + 0.5, 0, 255).astype(int)
        assert np.abs(seen[:, 10:, band] - expected).max() <= 1


def test_it_is_sound_and_other_programs_read_it(landsat, tmp_path: Path) -> None:
    path, _, _ = landsat
    assert verify_store(path, deep=True) == []
    store = open_store(path)
    hr = store.read_tiles("hr", range(len(store)))
    np.testing.assert_array_equal(zarr.open(str(path), mode="r")["tiles/hr"][:], hr)
    tiles = xarray.open_zarr(path, group="tiles", consolidated=False)
    assert (tiles.hr.dtype, tiles.hr.dims) == (np.uint16, ("tile", "y_hr", "x_hr", "band"))
    assert tiles.valid.dtype == np.uint8
    assert any("uint16, 3 bands (B4, B3, B2), range 7000 to 12000, nodata 0" in line for line in store_lines(store))
    assert store_facts(store)["pixels"]["bands"][0] == {"name": "B4", "unit": ""}
    export_folder(store, tmp_path / "folder")
    export_hdf5(store, tmp_path / "a.h5")
    import cv2

    first = cv2.imread(str(next(iter(sorted((tmp_path / "folder" / "HR").iterdir())))), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(first[..., ::-1], hr[0])


def test_a_flipped_bit_is_found(landsat, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "b.zarr"
    shutil.copytree(landsat[0], copy)
    shard = copy / "tiles" / "valid" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 8
    shard.write_bytes(data)
    assert any(problem.startswith("tiles/valid/c/0/0/0: damaged") for problem in verify_store(copy))


def test_samples_of_training(landsat) -> None:
    data = ShardDataset(landsat[0], patch=16, seed=1)
    batch = data.batch(0, 6)
    assert {name: (values.dtype.name, values.shape) for name, values in batch.items() if name in ("hr", "lr", "valid")} == {
        "hr": ("uint16", (6, 16, 16, 3)),
        "lr": ("uint16", (6, 8, 8, 3)),
        "valid": ("uint8", (6, 16, 16)),
    }
    assert batch["hr"].min() > 6000


def test_the_residual_is_measured(landsat) -> None:
    measured = open_store(landsat[0]).attrs["measured"]
    assert len(measured["residual_rms"]) == 3
    rms = float(np.sqrt(np.square(measured["residual_rms"]).mean()))
    assert measured["residual_scale"] == pytest.approx(0.16 / rms, rel=0.05)


def test_the_same_command_resumes_and_finds_it_complete(landsat) -> None:
    path, _, _ = landsat
    again = prepare(path.parent / "in", path, Boxes(), config(range="7000,12000", nodata="0"))
    assert again.already_complete
    with pytest.raises(Exception, match="pixels.range"):
        prepare(path.parent / "in", path, Boxes(), config(range="7000,11000", nodata="0"))


def test_masks_are_reused(landsat, tmp_path: Path) -> None:
    path, _, _ = landsat
    boxes = Boxes()
    settings = PrepareConfig(scale=2, tile=48, pixels=PixelConfig(range="7000,12000", nodata="0"))
    report = prepare(path.parent / "in", tmp_path / "b.zarr", boxes, settings, reuse=[path])
    assert (report.segmented, len(boxes.seen), sum(report.reused.values())) == (0, 0, 1)
    with pytest.raises(ConfigError, match="has other samples"):
        prepare(path.parent / "in", tmp_path / "c.zarr", boxes, config(range="auto", nodata="0"), reuse=[path])


def test_what_cannot_be_known_is_asked_for(tmp_path: Path) -> None:
    """One error that shows the values: the range; and whether the zeros are data."""
    write_geotiff(tmp_path / "in" / "scene.tif", scene(), names=NAMES)
    with pytest.raises(ConfigError) as asked:
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="7000,12000"))
    assert "7.8% of the pixels are 0 in all bands: give --nodata 0" in str(asked.value)
    with pytest.raises(ConfigError) as asked:
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(nodata="0"))
    text = str(asked.value)
    assert "GeoTIFF of 3 bands of uint16, 128 x 96 pixels; nodata 0; give the values" in text
    assert "band 1 B4: 0 to" in text
    with pytest.raises(ConfigError, match="less than a sixteenth of the range 0 to 100000"):
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(nodata="0", range="0,100000"))
    assert not (tmp_path / "a.zarr").exists()


def test_bands_by_name(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "in" / "scene.tif", scene(bands=4), nodata=0, names=(*NAMES, "B5"))
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="auto", bands="B5,1"))
    store = open_store(tmp_path / "a.zarr")
    assert (store.samples.names, store.samples.view, store.samples.nodata) == (("B5", "B4"), (0,), 0)
    np.testing.assert_array_equal(store[1]["hr"][:, -1, 0], scene(bands=4)[:32, store[1]["place"][2] + 31, 3])
    with pytest.raises(ConfigError, match=r"--bands: expected bands of '1 B4, 2 B3, 3 B2, 4 B5', got 'B8'"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), config(range="auto", bands="B8"))


def test_images_that_differ_are_listed(tmp_path: Path) -> None:
    """Other bands, another type, no valid pixel, an ordinary photograph: skipped with the reason."""
    write_geotiff(tmp_path / "in" / "a.tif", scene(), nodata=0, names=NAMES)
    write_geotiff(tmp_path / "in" / "b.tif", scene(bands=2), nodata=0, names=NAMES[:2])
    write_geotiff(tmp_path / "in" / "c.tif", scene().astype(np.float32), nodata=0, names=NAMES)
    write_geotiff(tmp_path / "in" / "d.tif", np.zeros((96, 128, 3), np.uint16), nodata=0, names=NAMES)
    report = prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="7000,12000"))
    assert {name: reason.split(";")[0] for name, reason in report.skipped.items()} == {
        "b.tif": "expected the bands B4, B3, B2, got B4, B3",
        "c.tif": "expected samples of uint16, got float32",
        "d.tif": "has no valid pixel: all are nodata",
    }


def test_signed_and_floating_point(tmp_path: Path) -> None:
    signed = (scene().astype(np.int32) - 9000).astype(np.int16)
    write_geotiff(tmp_path / "s" / "a.tif", signed, nodata=-9000, names=NAMES)
    prepare(tmp_path / "s", tmp_path / "s.zarr", Boxes(), config(range="-2500,2500"))
    store = open_store(tmp_path / "s.zarr")
    assert (store.samples.dtype, store.samples.offset) == ("uint16", 32768)
    tile = store[1]
    _, y, x = tile["place"]
    own = signed[y : y + 32, x : x + 32].astype(int)
    np.testing.assert_array_equal(tile["hr"][own > -9000].astype(int) - 32768, own[own > -9000])
    floats = np.where(scene() == 0, np.nan, scene() / 10000).astype(np.float32)
    write_geotiff(tmp_path / "f" / "a.tif", floats, names=NAMES)
    prepare(tmp_path / "f", tmp_path / "f.zarr", Boxes(), config(range="0,1.5"))
    store = open_store(tmp_path / "f.zarr")
    assert np.isfinite(store.read_tiles("hr", range(len(store)))).all()
    assert verify_store(tmp_path / "f.zarr") == []


@pytest.mark.parametrize("fill", [3e38, -9999.0, np.inf])
def test_fill_values_that_no_file_states(tmp_path: Path, fill: float) -> None:
    """They are no data: the LR pixels around them are made of the nearest data, and are not compared."""
    floats = np.maximum(scene(bands=1), 7000).astype(np.float32) / 10000
    clean = floats.copy()
    floats[20:24, 70] = fill
    write_geotiff(tmp_path / "in" / "a.tif", floats, names=("B8",))
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="0.7,1.2"))
    store = open_store(tmp_path / "a.zarr")
    lr = store.read_tiles("lr", range(len(store)))
    assert 0.4 < lr.min() <= lr.max() < 1.5
    valid, places = store.read_tiles("valid", range(len(store))), store.rows("tiles/place", np.arange(len(store)))
    (row,) = np.flatnonzero((places[:, 1] == 0) & (places[:, 2] == 64))
    assert not valid[row][18:26, 4:8].any()
    assert valid[row][:12].all()
    assert ("4 pixels outside the range by more than 1000 times" in store.note(0)) == np.isfinite(fill)
    auto = config(range="auto", nodata="-9999" if fill == -9999 else "")
    prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), auto)
    low, high = open_store(tmp_path / "b.zarr").samples.ranges[0]
    assert clean.min() <= low < high <= clean.max()


def test_samples_outside_the_range_are_noted(tmp_path: Path) -> None:
    values = scene(bands=1)
    values[:, :10] = 9000
    values[40:44] = 60000
    write_geotiff(tmp_path / "in" / "a.tif", values, names=("B8",))
    report = prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="5000,14000"))
    (note,) = report.notes
    assert note.startswith("more than 0.5 % of the samples lie outside the range, and training clips them")
    assert not prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), config(range="5000,14000", nodata="60000")).notes


def test_a_fill_value_that_no_file_states_is_asked_for(tmp_path: Path) -> None:
    """With it, an automatic range would be from -9999 to 4, and a model would learn nothing."""
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).uniform(0, 4, (96, 96, 1)).astype(np.float32)
    values[:20] = -9999
    write_geotiff(tmp_path / "in" / "a.tif", values, names=("height",))
    with pytest.raises(ConfigError, match="more than 1% of its pixels are -9999 in all bands, .* give --nodata -9999"):
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="auto"))
    report = prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), config(range="auto", nodata="-9999"))
    assert report.images == 1
    assert open_store(tmp_path / "b.zarr").samples.ranges[0][0] >= 0


def test_what_reading_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, bands in enumerate((2, 3, 3)):
        write_geotiff(tmp_path / "in" / f"{number}.tif", scene(bands=bands, seed=number), nodata=0, names=NAMES[:bands])
    report = prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="4000,15000"))
    assert report.notes == {"1 further band left out": 2}


def test_view_bands_of_8_bit_rgb(tmp_path: Path) -> None:
    """The segmenter sees what is requested; the store then needs version 2, which records it."""
    (tmp_path / "in").mkdir()
    rgb = (scene() // 50).astype(np.uint8)
    (tmp_path / "in" / "a.tif").write_bytes(tiff_bytes(rgb, photometric="rgb"))
    boxes = Boxes()
    prepare(tmp_path / "in", tmp_path / "a.zarr", boxes, config(view_bands="3"))
    low, high = np.percentile(rgb[..., 2], (2, 98))
    expected = np.clip((rgb[..., 2] - low) / (high - low) * 255 + 0.5, 0, 255).astype(int)
    assert np.abs(boxes.seen[0] - expected[..., None]).max() <= 1
    assert open_store(tmp_path / "a.zarr").attrs["sam_view"]["bands"] == ["blue"]


def test_a_dark_micrograph(tmp_path: Path) -> None:
    """uint16 that holds 0..235: refused as a photograph, kept with its depth."""
    (tmp_path / "in").mkdir()
    nuclei = (scene(bands=1)[..., 0] // 60).astype(np.uint16)
    (tmp_path / "in" / "a.tif").write_bytes(tiff_bytes(nuclei, compression="zlib"))
    with pytest.raises(ImageError, match="--keep-depth"):
        prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config())
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(keep_depth=True, range="auto"))
    store = open_store(tmp_path / "a.zarr")
    assert (store.samples.names, store.samples.masked, store.attrs["format_version"]) == (("grey",), False, 2)
    _, y, x = store[3]["place"]
    np.testing.assert_array_equal(store[3]["hr"][..., 0], nuclei[y : y + 32, x : x + 32])


def test_eight_bits_keep_version_1(tmp_path: Path) -> None:
    """Whatever is requested, what version 1 holds is version 1, with the same bytes."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(tiff_bytes((scene() // 50).astype(np.uint8), photometric="rgb"))
    for name, settings in (("plain", config()), ("kept", config(keep_depth=True))):
        prepare(tmp_path / "in", tmp_path / f"{name}.zarr", Boxes(), settings)
    plain, kept = (tmp_path / f"{name}.zarr" / "zarr.json" for name in ("plain", "kept"))
    assert plain.read_bytes() == kept.read_bytes()
    assert open_store(tmp_path / "plain.zarr").attrs["format_version"] == 1


def test_ome_tiff_states_its_bits_and_its_spacing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.moveaxis(scene(bands=2) // 4, -1, 0)
    metadata = {
        "axes": "CYX",
        "Channel": {"Name": ["DAPI", "GFP"]},
        "SignificantBits": 12,
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.25,
    }
    (tmp_path / "in" / "a.ome.tif").write_bytes(tiff_bytes(values, ome=True, metadata=metadata))
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config())
    store = open_store(tmp_path / "a.zarr")
    assert (store.samples.names, store.samples.ranges) == (("DAPI", "GFP"), ((0, 4095),) * 2)
    np.testing.assert_allclose(store.table("images/spacing"), [[0.00025, 0.0005]])


def test_given_lr_of_16_bits(tmp_path: Path) -> None:
    """LR as it is in its files, with its own nodata."""
    values = scene()[:, 10:]
    low = imresize(values, 0.5)
    low[:4, :4] = 0
    write_geotiff(tmp_path / "hr" / "a.tif", values, nodata=0, names=NAMES)
    write_geotiff(tmp_path / "lr" / "a.tif", low, nodata=0, names=NAMES)
    settings = PrepareConfig(scale=2, tile=32, degradation="given", pixels=PixelConfig(range="7000,12000"))
    prepare(tmp_path / "hr", tmp_path / "a.zarr", Boxes(), settings, lr=tmp_path / "lr")
    first = open_store(tmp_path / "a.zarr")[0]
    np.testing.assert_array_equal(first["lr"][4:], low[4:16, :16])
    assert (not first["valid"][:8, :8].any(), first["valid"][8:].all()) == (True, True)


def test_pixels_as_points_are_shifted_by_half_a_pixel(tmp_path: Path) -> None:
    """GeoTIFF's RasterPixelIsPoint gives the centre of the first pixel; the store has the corner, as GDAL does."""
    rasterio = pytest.importorskip("rasterio")
    for name, kind in (("a", "Area"), ("b", "Point")):
        path = write_geotiff(tmp_path / "in" / f"{name}.tif", scene(), nodata=0, names=NAMES)
        with rasterio.open(path, "r+") as file:
            file.update_tags(AREA_OR_POINT=kind)
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), config(range="7000,12000"))
    np.testing.assert_array_equal(
        open_store(tmp_path / "a.zarr").table("images/transform"), [[30, 0, 500_000, 0, -30, 4_600_000]] * 2
    )


def test_degradations_of_instruments(tmp_path: Path) -> None:
    """Recorded in the store with their parameters; blind is refused by name."""
    write_geotiff(tmp_path / "in" / "a.tif", scene(), nodata=0, names=NAMES)
    how = {"scale": 2, "tile": 32, "pixels": PixelConfig(range="7000,12000")}
    prepare(tmp_path / "in", tmp_path / "m.zarr", Boxes(), PrepareConfig(**how, degradation="mtf", mtf_gains="0.2,0.3,0.4"))
    prepare(tmp_path / "in", tmp_path / "k.zarr", Boxes(), PrepareConfig(**how, degradation="kspace"))
    assert open_store(tmp_path / "m.zarr").attrs["degradation"] == {"kind": "mtf", "gains": [0.2, 0.3, 0.4]}
    assert open_store(tmp_path / "k.zarr").attrs["degradation"] == {"kind": "kspace"}
    with pytest.raises(ConfigError, match="degradation blind: defined for 8-bit RGB, the images have uint16, 3 bands"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), PrepareConfig(**how, degradation="blind"))
    with pytest.raises(ConfigError, match="one for each of 3 bands, got 2"):
        prepare(tmp_path / "in", tmp_path / "b.zarr", Boxes(), PrepareConfig(**how, degradation="mtf", mtf_gains="0.2,0.3"))
