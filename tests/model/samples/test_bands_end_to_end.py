"""Measured values through training and inference: prepare, train, infer, with the units, the place and the bands kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff import load_model, open_store
from samdiff.cli import main
from samdiff.errors import CheckpointError, ConfigError, ImageError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import load_config
from samdiff.model.diffusion.residual import from_model_range, to_model_range
from samdiff.model.inference.batch import OutputConfig, list_inputs, plan_outputs, upscale_files
from samdiff.model.inference.upscaler import InferConfig, SuperResolver
from samdiff.model.networks.build import build_rrdb
from samdiff.model.networks.rrdb import condition
from samdiff.model.training.run import train
from samdiff.model.training.tasks import RrdbTask
from samdiff.pipeline.decoding.image_data import ReadConfig, decode_image
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.scientific.sample_format import RGB8, Band, SampleFormat, format_in
from samdiff.pipeline.scientific.settings import PixelConfig
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.measured import Boxes, scene, tiff_bytes, write_geotiff
from ...helpers.models import SMALL_RUN, write_model

CPU = torch.device("cpu")
NAMES = ("red", "NIR")
STEPS = (
    "train.rrdb_steps=3",
    "train.steps=3",
    "train.batch=2",
    "validate.every=3",
    "validate.images=1",
    "validate.tiles=2",
    "validate.steps=2",
)


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def config(store: Path, *sets: str):
    return load_config("tiny", sets=[*SMALL_RUN, *STEPS, *sets], scale=2, bands=open_store(store).samples.count, rgb8=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(store, model) of ten scenes of two bands."""
    folder = tmp_path_factory.mktemp("bands")
    for number in range(10):
        write_geotiff(folder / "in" / f"{number}.tif", scene(48, 64, bands=2, seed=number), nodata=0, names=NAMES)
    settings = PrepareConfig(scale=2, tile=24, pixels=PixelConfig(range="7000,12000"))
    prepare(folder / "in", folder / "a.zarr", Boxes(), settings)
    model = train([open_store(folder / "a.zarr")], folder / "run", config(folder / "a.zarr"), CPU)
    return folder / "a.zarr", model


def test_the_checkpoint_keeps_samples_and_factor(trained: tuple[Path, Path]) -> None:
    store, model = open_store(trained[0]), load_checkpoint(trained[1])
    resolver = load_model(trained[1], "cpu")
    assert resolver.samples == store.samples
    assert (resolver.config.bands, tuple(resolver.rrdb.first.weight.shape[:2])) == (2, (8, 2))
    assert resolver.process.rescale == store.attrs["measured"]["residual_scale"] != 2
    assert model.config["pixels"]["bands"] == [{"name": "red", "unit": ""}, {"name": "NIR", "unit": ""}]


def test_validation_has_the_range_of_the_store(trained: tuple[Path, Path]) -> None:
    lines = [json.loads(line) for line in (trained[1].parent / "log.jsonl").read_text().splitlines()]
    scored = [line for line in lines if "validation" in line]
    assert {"psnr", "ssim", "bicubic_psnr"} <= set(scored[-1])
    assert "psnr_y" not in scored[-1]
    assert list((trained[1].parent / "visualization").rglob("*.png"))


def test_the_same_command_resumes(trained: tuple[Path, Path]) -> None:
    again = train([open_store(trained[0])], trained[1].parent, config(trained[0]), CPU)
    assert again == trained[1]


def upscale(model: SuperResolver, source: Path, **output: object) -> dict[str, str]:
    how = OutputConfig(**{"suffix": "_x2", "format": "tif", **output})
    jobs = plan_outputs(list_inputs([source], "_x2"), how)
    return upscale_files(model, jobs, InferConfig(steps=2), output=how, report=lambda _: None)


def test_geotiff_in_and_out(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Place, nodata, bands and type as rasterio reads them; the corners stay, pixels are half as large."""
    rasterio = pytest.importorskip("rasterio")
    model, values = load_model(trained[1], "cpu"), scene(40, 48, bands=2, seed=77)
    write_geotiff(tmp_path / "a.tif", values, nodata=0, names=NAMES)
    assert upscale(model, tmp_path / "a.tif") == {}
    with rasterio.open(tmp_path / "a.tif") as source, rasterio.open(tmp_path / "a_x2.tif") as result:
        assert (result.width, result.height, result.count, result.dtypes) == (96, 80, 2, ("uint16",) * 2)
        assert (result.crs, result.nodata, result.descriptions) == (source.crs, 0, NAMES)
        assert result.bounds == source.bounds
        assert result.res == (15, 15)
        large = np.moveaxis(result.read(), 0, -1)
    assert not large[:, :20].any(), "no data stays no data"
    inner = large[:, 24:].astype(float)
    bicubic = imresize(values[:, 10:], 2)[:, 4:].astype(float)
    assert 7000 <= inner.min() <= inner.max() <= 12000
    assert np.abs(inner - bicubic).mean() < 2500  # an untrained model, but in the units of the data


def test_it_is_exported_as_onnx(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Both networks with two bands give PyTorch's results; the samples are beside them."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert command("export-model", "--checkpoint", trained[1], "-o", tmp_path / "onnx") == 0
    rrdb, denoiser = (runtime.InferenceSession(str(tmp_path / "onnx" / name)) for name in ("rrdb.onnx", "denoiser.onnx"))
    model, random = load_model(trained[1], "cpu"), torch.Generator().manual_seed(0)
    lr, x = torch.rand(1, 2, 12, 9, generator=random) * 2 - 1, torch.randn(1, 2, 24, 18, generator=random)
    with torch.inference_mode():
        maps = model.rrdb.features(lr)
        image, given = model.rrdb.image(maps[-1], lr), condition(maps)
        predicted = model.unet(x, torch.tensor([7]), given)
    found = rrdb.run(None, {"lr": lr.numpy()})
    np.testing.assert_allclose(found[0], image.numpy(), atol=2e-5)
    again = denoiser.run(None, {"x": x.numpy(), "t": np.array([7]), "condition": found[1]})[0]
    np.testing.assert_allclose(again, predicted.numpy(), atol=2e-4)
    facts = json.loads((tmp_path / "onnx" / "schedule.json").read_text())
    assert format_in(facts) == open_store(trained[0]).samples


@pytest.mark.parametrize(
    "words",
    [
        ("--to", "esrgan"),
        ("--only", "rrdb"),
        ("--only", "rrdb", "--precision", "fp16"),
        ("--only", "rrdb", "--precision", "int8"),
    ],
)
def test_exports_that_other_programs_read_as_rgb_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export-model", "--checkpoint", trained[1], "-o", tmp_path / "one.onnx", *words) != 0
    assert "--only and --to esrgan: expected 8-bit RGB, got uint16, 2 bands (red, NIR)" in capsys.readouterr().err
    assert not (tmp_path / "one.onnx").exists()


def test_a_finished_result_is_kept(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model = load_model(trained[1], "cpu")
    for name in ("a", "b"):
        write_geotiff(tmp_path / f"{name}.tif", scene(40, 48, bands=2), nodata=0, names=NAMES)
    assert upscale(model, tmp_path) == {}
    before = (tmp_path / "a_x2.tif").stat().st_mtime_ns
    assert upscale(model, tmp_path) == {}
    assert (tmp_path / "a_x2.tif").stat().st_mtime_ns == before


def test_what_does_not_fit_the_model_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    model = load_model(trained[1], "cpu")
    write_geotiff(tmp_path / "three.tif", scene(40, 48, bands=3), nodata=0, names=("a", "b", "c"))
    with pytest.raises(ImageError, match="expected the bands red, NIR, got a, b, c"):
        upscale(model, tmp_path / "three.tif")
    write_geotiff(tmp_path / "a.tif", scene(40, 48, bands=2), nodata=0, names=NAMES)
    with pytest.raises(ImageError, match="written as TIFF"):
        upscale(model, tmp_path / "a.tif", format="jpg")
    with pytest.raises(ImageError, match=r"expected an image \[H, W, 2\] of uint16"):
        model.upscale(np.zeros((8, 8, 3), np.uint8))


def test_an_rgb_model_refuses_measured_values(trained: tuple[Path, Path], tmp_path: Path) -> None:
    rgb = write_model(tmp_path / "model.safetensors", scale=2)
    write_geotiff(tmp_path / "a.tif", scene(40, 48, bands=1), names=("B8",))
    with pytest.raises(ImageError, match="GeoTIFF of 1 band of 16 bits: measured values"):
        upscale(load_model(rgb, "cpu"), tmp_path / "a.tif", format="png")
    with pytest.raises(CheckpointError, match="trained on images of 3 bands, the store's have 2"):
        train([open_store(trained[0])], tmp_path / "run", config(trained[0]), CPU, start=rgb)


def test_an_rrdb_with_another_skip_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    store, given = open_store(trained[0]), trained[1].parent / "rrdb.safetensors"
    with pytest.raises(
        CheckpointError,
        match="its RRDB was trained with model.rrdb_skip='bicubic', this run has none; add --set model.rrdb_skip=bicubic",
    ):
        train([store], tmp_path / "run", config(trained[0], "model.rrdb_skip=none"), CPU, rrdb=given)
    assert not (tmp_path / "run").exists()


def test_settings_that_need_rgb_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    store = open_store(trained[0])
    with pytest.raises(ConfigError, match="bands: expected the store's 2, got 3"):
        train([store], tmp_path / "run", load_config("tiny", sets=[*SMALL_RUN, *STEPS], scale=2), CPU)
    sets = ("loss.perceptual=lpips-alex", "diffusion.modulation=none")
    with pytest.raises(ConfigError, match="loss.perceptual: defined for 8-bit RGB|perceptual: expected"):
        train([store], tmp_path / "run", config(trained[0], *sets), CPU)
    assert not (tmp_path / "run").exists()


def test_invalid_pixels_do_not_change_the_loss(trained: tuple[Path, Path]) -> None:
    data = ShardDataset(trained[0], patch=12)
    task = RrdbTask(data, build_rrdb(config(trained[0])), config(trained[0]), device=CPU)
    batch = next(
        batch for first in range(0, 400, 2) if 0.2 < (batch := task.make_batch(first, 2))["valid"].float().mean() < 0.9
    )
    spoiled = {**batch, "hr": torch.where(batch["valid"][..., None] > 0, batch["hr"].int(), 65535).to(torch.uint16)}
    assert float(task.loss(batch).detach()) == float(task.loss(spoiled).detach())
    none = {**batch, "valid": torch.zeros_like(batch["valid"])}
    assert float(task.loss(none).detach()) == 0


@pytest.mark.parametrize("modulation", ["joint", "paper"])
def test_other_modulations_have_bands_too(trained: tuple[Path, Path], tmp_path: Path, modulation: str) -> None:
    how = config(trained[0], f"diffusion.modulation={modulation}", "validate.every=0", "train.steps=1", "train.rrdb_steps=1")
    model = load_model(train([open_store(trained[0])], tmp_path / "run", how, CPU), "cpu")
    assert model.upscale(scene(20, 24, bands=2)[:, 10:] // 1, steps=None if modulation == "paper" else 2).shape == (40, 28, 2)


def test_a_grey_micrograph_as_png_and_tiff(tmp_path: Path) -> None:
    """One band of 16 bits, without a place; a result of the whole way with dark values."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        nuclei = (scene(48, 64, bands=1, seed=number)[..., 0] // 60).astype(np.uint16)
        (tmp_path / "in" / f"{number}.tif").write_bytes(tiff_bytes(nuclei))
    settings = PrepareConfig(scale=2, tile=24, pixels=PixelConfig(keep_depth=True, range="100,210"))
    prepare(tmp_path / "in", tmp_path / "a.zarr", Boxes(), settings)
    how = config(tmp_path / "a.zarr", "validate.every=0")
    model = load_model(train([open_store(tmp_path / "a.zarr")], tmp_path / "run", how, CPU), "cpu")
    assert upscale(model, tmp_path / "in" / "0.tif", out=tmp_path / "a.png") == {}
    written = decode_image((tmp_path / "a.png").read_bytes(), "a.png", ReadConfig(any_range=True)).pixels
    assert (written.dtype, written.shape) == (np.uint16, (96, 128))
    assert 100 <= written.min() <= written.max() <= 210
    assert upscale(model, tmp_path / "in" / "0.tif", out=tmp_path / "b.tif") == {}
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        np.testing.assert_array_equal(file.asarray(), written)
        assert json.loads(file.pages[0].description)["range"] == [[100, 210]]


def test_ranges_and_back() -> None:
    """8-bit RGB keeps the literal arithmetic; other samples come back exactly, clipped to the range."""
    rgb = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    np.testing.assert_array_equal(to_model_range(rgb).numpy(), rgb.permute(0, 3, 1, 2).float().numpy() / 127.5 - 1)
    np.testing.assert_array_equal(from_model_range(to_model_range(rgb), RGB8), rgb.numpy())
    signed = SampleFormat(dtype="uint16", bands=(Band("HU"),), ranges=((-1024, 3071),), offset=32768, view=(0,))
    stored = (np.array([-2000, -1024, 0, 1, 3071, 4000]) + 32768).astype(np.uint16).reshape(1, 2, 3, 1)
    unit = to_model_range(torch.from_numpy(stored), signed)
    assert (float(unit.min()), float(unit.max())) == (-1, 1)
    back = from_model_range(unit, signed).ravel().astype(int) - 32768
    np.testing.assert_array_equal(back, [-1024, -1024, 0, 1, 3071, 3071])
