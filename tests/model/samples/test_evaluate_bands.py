"""`samdiff evaluate` with a model of measured values: metrics with the store's range, conventions named, invalid pixels out."""

import json
from pathlib import Path

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.model.checkpoints.format import Checkpoint, save_checkpoint
from samdiff.model.config import load_config
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.samples.range_metrics import range_metrics
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.degrade.invalid import margin_of, usable_pixels
from samdiff.pipeline.degrade.sensors import kspace, mtf
from samdiff.pipeline.scientific.sample_format import Band, SampleFormat
from samdiff.pipeline.scientific.samples import filled

from ...helpers.measured import scene, write_geotiff
from ...helpers.models import SMALL

FORMAT = SampleFormat(
    dtype="uint16", bands=(Band("B4"), Band("B5")), ranges=((7000, 12000),) * 2, nodata=0, masked=True, view=(0,)
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_of(FORMAT, tmp_path)


def model_of(samples: SampleFormat, folder: Path) -> Path:
    """An untrained model of these samples."""
    config = load_config("tiny", sets=SMALL, scale=2, bands=samples.count)
    parts = {"rrdb": build_rrdb(config), "unet": build_unet(config)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    beside = {"stores": [], "rrdb_from": None, **samples.attributes()}
    save_checkpoint(folder / "model.safetensors", Checkpoint("diffusion", tensors, {**config.as_dict(), **beside}))
    return folder / "model.safetensors"


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_the_table(model: Path, tmp_path: Path) -> None:
    values = scene(48, 64, bands=2)
    write_geotiff(tmp_path / "set" / "a.tif", values, nodata=0, names=("B4", "B5"))
    words = ("evaluate", "--checkpoint", model, "--benchmark", tmp_path / "set", "--out", tmp_path / "out", "--steps", 2)
    assert run(*words, "--save", "--device", "cpu") == 0
    valid = (values > 0).all(axis=2)
    hr = filled(values, valid)
    expected = range_metrics(imresize(imresize(hr, 0.5), 2), hr, FORMAT, scale=2, valid=usable_pixels(valid, 2))
    rows = json.loads((tmp_path / "out" / "figures.json").read_text())["pictures"]
    bicubic = next(row for row in rows if row["method"] == "bicubic")
    assert {name: bicubic[name] for name in expected} == pytest.approx(expected)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "psnr: 10 log10(1 / mean over bands of MSE / R^2), R the range of each band (7000 to 12000)" in table
    assert "psnr_y" not in table
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 4  # bicubic, RRDB, one sample, HR
    assert np.isfinite([row["spectral_angle"] for row in rows]).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("mtf", "--mtf-gains", "0.3,0.2"), "made from HR by a sensor's blur (mtf, gains 0.3, 0.2)"),
        (("kspace",), "made from HR by the central part of k-space (kspace)"),
    ],
)
def test_lr_is_made_as_by_prepare(model: Path, tmp_path: Path, options: tuple[str, ...], expected: str) -> None:
    values = scene(48, 64, bands=2)
    write_geotiff(tmp_path / "set" / "a.tif", values, nodata=0, names=("B4", "B5"))
    words = ("evaluate", "--checkpoint", model, "--benchmark", tmp_path / "set", "--out", tmp_path / "out", "--steps", 2)
    assert run(*words, "--device", "cpu", "--degradation", *options) == 0
    valid, kind = (values > 0).all(axis=2), options[0]
    hr = filled(values, valid)
    lr = mtf(hr, 2, (0.3, 0.2)) if kind == "mtf" else kspace(hr, 2)
    usable = usable_pixels(valid, 2, margin_of(kind, 2, (0.2,)))
    metrics = range_metrics(imresize(lr, 2), hr, FORMAT, scale=2, valid=usable)
    document = json.loads((tmp_path / "out" / "figures.json").read_text())
    bicubic = next(row for row in document["pictures"] if row["method"] == "bicubic")
    assert {name: bicubic[name] for name in metrics} == pytest.approx(metrics)
    assert document["lr_from"] == {"set": expected}


def test_what_needs_rgb_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_geotiff(tmp_path / "set" / "a.tif", scene(48, 64, bands=2), nodata=0, names=("B4", "B5"))
    words = ("evaluate", "--checkpoint", model, "--benchmark", tmp_path / "set", "--out", tmp_path / "out")
    assert run(*words, "--metrics", "lpips") != 0
    assert "--metrics: defined for 8-bit RGB, the model has uint16, 2 bands (B4, B5)" in capsys.readouterr().err


def test_infer_by_the_command_line(model: Path, tmp_path: Path) -> None:
    """TIFF without --format; other files of the folder are listed with the reason."""
    write_geotiff(tmp_path / "in" / "a.tif", scene(24, 32, bands=2), nodata=0, names=("B4", "B5"))
    write_geotiff(tmp_path / "in" / "b.tif", scene(24, 32, bands=3), nodata=0, names=("B4", "B5", "B6"))
    write_geotiff(tmp_path / "in" / "c.tif", scene(24, 32, bands=1), nodata=0, names=("B4",))
    assert run("infer", tmp_path / "in", "--checkpoint", model, "--out", tmp_path / "out", "--steps", 2, "--device", "cpu") == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_x2.tif", "b_x2.tif"]


def test_dicom_becomes_tiff_with_json(tmp_path: Path) -> None:
    """In HU, with half the distance of pixels; nothing of the patient."""
    pytest.importorskip("pydicom")
    tifffile = pytest.importorskip("tifffile")
    from ...pipeline.scientific.test_dicom import SECRETS, dicom, slice_of

    ct = SampleFormat(
        dtype="uint16", bands=(Band("CT", "HU"),), ranges=((-1024, 3071),), offset=32768, nodata=-2000, masked=True, view=(0,)
    )
    (tmp_path / "a.dcm").write_bytes(dicom(slice_of()))
    words = ("infer", tmp_path / "a.dcm", "--checkpoint", model_of(ct, tmp_path), "--steps", 2, "--device", "cpu")
    assert run(*words) == 0
    data = (tmp_path / "a_x2.tif").read_bytes()
    assert not [secret for secret in SECRETS if secret.encode() in data]
    with tifffile.TiffFile(tmp_path / "a_x2.tif") as file:
        values, facts = file.asarray(), json.loads(file.pages[0].description)
    assert (values.dtype, values.shape) == (np.int16, (128, 128))
    assert (values == -2000).sum() == 4 * (slice_of() == -2000).sum()
    assert facts["bands"] == [{"name": "CT", "unit": "HU"}]
    assert (facts["spacing_mm"], facts["range"], facts["nodata"]) == ([0.25, 0.375], [[-1024, 3071]], "-2000")
