"""Validation: perceptual metrics, where their weights come from, the report of those that are left out, and the saved sheets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from samdiff import open_store
from samdiff.errors import ConfigError, WeightsError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import ValidateConfig, load_config
from samdiff.model.evaluation import perceptual
from samdiff.model.evaluation.perceptual import choose_metrics
from samdiff.model.inference.image_io import open_image, save_image
from samdiff.model.losses import LPIPS, METRICS
from samdiff.model.losses.perceptual import PerceptualMetric
from samdiff.model.names import PERCEPTUAL
from samdiff.model.training.run import train
from samdiff.model.training.validation import KEPT_SHEETS, SheetSaver, benchmark_of, describe, file_name, score, with_perceptual
from samdiff.pipeline.degrade.imresize import imresize

from ...helpers.stores import make_store

CPU = torch.device("cpu")


@pytest.fixture
def metric() -> PerceptualMetric:
    torch.manual_seed(0)
    network = LPIPS("alex")
    for head in network.heads:
        head.data.fill_(0.2)
    return PerceptualMetric("lpips", network)


def at_hand(monkeypatch: pytest.MonkeyPatch, metric: PerceptualMetric) -> None:
    """As if the cache held the weights of LPIPS, and none of DISTS."""
    monkeypatch.setattr(perceptual, "has_weights", lambda name: name == "lpips")
    monkeypatch.setattr(perceptual, "load_perceptual", lambda name, device: metric.network)


def pairs(count: int, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    hr = np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)
    return [(imresize(image, 1 / 4), image) for image in hr]


def test_columns_are_means_beside_those_of_bicubic(metric, monkeypatch):
    at_hand(monkeypatch, metric)
    reported: list[str] = []
    (bench,) = with_perceptual([benchmark_of("b", pairs(2, 40), 4)], "auto", device=CPU, report=reported.append)
    result = score(bench, lambda lr, n: np.full((40, 40, 3), 50 * n, np.uint8))[0]
    expected = [metric(np.full((40, 40, 3), 50 * n, np.uint8), hr) for n, (_, hr) in enumerate(bench.pairs)]
    assert result["lpips"] == pytest.approx(np.mean(expected), abs=1e-5)
    bicubic = [metric(imresize(lr, 4), hr) for lr, hr in bench.pairs]
    assert result["bicubic_lpips"] == pytest.approx(np.mean(bicubic), abs=1e-5)
    assert describe(result).endswith(f", lpips {result['lpips']:.4f} ({result['bicubic_lpips']:.4f})")
    (line,) = reported
    assert line.startswith("validation without dists: no weights in the cache; download them with `samdiff weights dists`")


def test_images_that_are_too_small(metric, monkeypatch):
    """The metric is left out of that benchmark, and reported."""
    at_hand(monkeypatch, metric)
    reported: list[str] = []
    both = [benchmark_of("small", pairs(1, 28), 4), benchmark_of("large", pairs(1, 32), 4)]
    small, large = with_perceptual(both, "auto", device=CPU, report=reported.append)
    assert (list(small.perceptual), list(large.perceptual)) == ([], ["lpips"])
    assert reported[-1] == "small: without lpips, for which a side of 28 pixels is too short"
    assert "lpips" not in score(small, lambda lr, n: imresize(lr, 4))[0]


def test_choices(tmp_path, monkeypatch):
    """`off` is silent, `auto` fetches nothing, names are fetched or are an error."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    reported: list[str] = []
    assert choose_metrics("off", CPU, report=reported.append) == {}
    assert reported == []
    assert choose_metrics("auto", CPU, report=reported.append) == {}
    assert reported[0].startswith("without lpips, dists: no weights in the cache")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WeightsError, match="no weights for lpips"):
        choose_metrics("lpips", CPU)
    assert tuple(METRICS) == PERCEPTUAL
    assert ValidateConfig(perceptual="dists,lpips").perceptual == "dists,lpips"
    for wrong in ("", "lpip", "lpips,", "auto,lpips"):
        with pytest.raises(ConfigError, match=r"perceptual: expected auto, off, or names"):
            ValidateConfig(perceptual=wrong)


def test_training_logs_them_and_is_not_changed_by_them(metric, tmp_path, monkeypatch):
    """The same weights to the bit with and without; a column in both stages."""
    at_hand(monkeypatch, metric)
    store = open_store(make_store(tmp_path / "v.zarr"))
    sets = ["model.width=8", "model.multipliers=[1,2]", "model.rrdb_blocks=2", "model.rrdb_features=8", "model.rrdb_growth=4"]
    sets += ["train.steps=2", "train.rrdb_steps=2", "train.patch=16", "train.batch=2", "diffusion.timesteps=4"]
    sets += ["diffusion.modulation=none", "validate.every=1", "validate.images=0", "validate.steps=2"]
    weights = []
    for choice in ("auto", "off"):
        config = load_config("tiny", sets=[*sets, f"validate.perceptual={choice}"], scale=4)
        file = train([store], tmp_path / choice, config, CPU, benchmarks=[benchmark_of("b", pairs(1, 40), 4)])
        weights.append(load_checkpoint(file, kind="diffusion").tensors)
        lines = [json.loads(line) for line in (tmp_path / choice / "log.jsonl").read_text().splitlines()]
        validations = [line for line in lines if "validation" in line]
        assert len(validations) == 4
        assert all(("lpips" in line and "bicubic_lpips" in line) == (choice == "auto") for line in validations)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def saver(run, step: int, images: int = 2, report=None, stage: str = "diffusion") -> SheetSaver:
    return SheetSaver(run, stage, step, images=images, report=report or pytest.fail)


def test_sheets_of_the_first_images(tmp_path):
    """Bicubic, result and HR side by side, grey ones as RGB; the number of images is bounded."""
    (lr, hr), *more = pairs(4, 40)
    bench = benchmark_of("Set5", [(lr, hr), (lr[..., 0], hr[..., 0]), *more], 4, names=["baby", "grey", "c", "d"])
    metrics = score(bench, lambda lr, n: np.full((40, 40, 3)[: lr.ndim], 50 * n, np.uint8), saver(tmp_path, 7))[0]
    assert metrics == score(bench, lambda lr, n: np.full((40, 40, 3)[: lr.ndim], 50 * n, np.uint8))[0]
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.png")}
    assert files == {f"visualization/Set5/{name}/{name}_diffusion_7.png" for name in ("baby", "grey")}
    sheet = open_image(tmp_path / "visualization/Set5/baby/baby_diffusion_7.png")
    np.testing.assert_array_equal(sheet, np.hstack([imresize(lr, 4), np.zeros((40, 40, 3), np.uint8), hr]))
    assert open_image(tmp_path / "visualization/Set5/grey/grey_diffusion_7.png").shape == (40, 120, 3)


def test_only_the_newest_sheets_are_kept_and_no_file_of_the_user_is_touched(tmp_path):
    bench = benchmark_of("b", pairs(1, 16), 4, names=["x"])
    folder = tmp_path / "visualization" / "b" / "x"
    mine = {"x_diffusion_1.png": None, "x_diffusion_notes.png": None, "x_diffusion_30.png": None, "y_diffusion_2.png": None}
    for name in mine:
        save_image(np.full((4, 4, 3), 9, np.uint8), folder / name)
        mine[name] = (folder / name).read_bytes()
    reported: list[str] = []
    sheet = np.zeros((16, 48, 3), np.uint8)
    for step in (*range(2, 16), 30, 15):  # 15 again, as after resuming
        saver(tmp_path, step, report=reported.append).save(bench, 0, sheet)
    saver(tmp_path, 3, stage="rrdb").save(bench, 0, sheet)
    kept = {f"x_diffusion_{step}.png" for step in range(16 - KEPT_SHEETS, 16)}
    assert {file.name for file in folder.iterdir()} == {*mine, *kept, "x_rrdb_3.png"}
    assert all((folder / name).read_bytes() == data for name, data in mine.items())
    (line,) = reported
    assert line.endswith(
        "x_diffusion_30.png: was not written by samdiff and is not replaced; this validation image is not saved"
    )


def test_links_to_sheets_are_the_user_s(tmp_path):
    """Neither a link in the place of a sheet nor one that is as old as a removed sheet is changed."""
    bench, sheet = benchmark_of("b", pairs(1, 16), 4, names=["x"]), np.zeros((16, 48, 3), np.uint8)
    folder = tmp_path / "visualization" / "b" / "x"
    saver(tmp_path, 100).save(bench, 0, sheet)
    (folder / "x_diffusion_100.png").rename(tmp_path / "kept.png")
    for step in (1, 7):
        (folder / f"x_diffusion_{step}.png").symlink_to(tmp_path / "kept.png")
    reported: list[str] = []
    for step in range(2, 9 + KEPT_SHEETS):
        saver(tmp_path, step, report=reported.append).save(bench, 0, sheet)
    assert [path.name for path in sorted(folder.iterdir()) if path.is_symlink()] == ["x_diffusion_1.png", "x_diffusion_7.png"]
    assert len(list(folder.iterdir())) == 2 + KEPT_SHEETS
    assert len(reported) == 1
    assert "x_diffusion_7.png: was not written by samdiff and is not replaced" in reported[0]


def test_a_sheet_that_cannot_be_written_is_reported(tmp_path):
    """A file is in the way of the folder: the metrics are there all the same."""
    (tmp_path / "visualization").write_text("mine")
    reported: list[str] = []
    bench = benchmark_of("b", pairs(1, 40), 4)
    assert "psnr_y" in score(bench, lambda lr, n: imresize(lr, 4), saver(tmp_path, 1, report=reported.append))[0]
    (line,) = reported
    assert line.startswith("a validation image is not saved: ")
    assert (tmp_path / "visualization").read_text() == "mine"


def test_names_of_sheets_stay_in_their_folder():
    assert file_name("img_001 (2)") == "img_001 (2)"
    names = ["..", "", ".hidden", "a/../../b", "caf\udce9", "\x1b[31m", "m" * 250, "m" * 251, "日" * 80, "a:b", "a_b"]
    shown = [file_name(name) for name in names]
    assert len(set(shown)) == len(names)
    assert all(
        len(name.encode()) <= 89 and "/" not in name and not name.startswith(".") and name.isprintable() for name in shown
    )


def test_training_saves_sheets_of_both_stages(tmp_path):
    """Held-out tiles and a benchmark; `validate.save_images` may change when the run is resumed."""
    store = open_store(make_store(tmp_path / "v.zarr", n=40, masks=tuple([1] * 40)))
    sets = ["model.width=8", "model.multipliers=[1,2]", "model.rrdb_blocks=2", "model.rrdb_features=8", "model.rrdb_growth=4"]
    sets += ["train.rrdb_steps=2", "train.patch=16", "train.batch=2", "diffusion.timesteps=4", "diffusion.modulation=none"]
    sets += ["validate.every=2", "validate.images=4", "validate.steps=2", "validate.perceptual=off"]
    bench = benchmark_of("b", pairs(3, 16), 4, names=["x", "y", "z"])
    for steps, images in ((2, 1), (4, 3)):
        config = load_config("tiny", sets=[*sets, f"train.steps={steps}", f"validate.save_images={images}"], scale=4)
        train([store], tmp_path / "r", config, CPU, benchmarks=[bench])
    files = {file.relative_to(tmp_path / "r" / "visualization").as_posix() for file in (tmp_path / "r").rglob("*.png")}
    expected = {"b/x/x_rrdb_2.png", "b/x/x_diffusion_2.png", *(f"b/{name}/{name}_diffusion_4.png" for name in "xyz")}
    assert {name for name in files if name.startswith("b/")} == expected
    tiles = sorted(name for name in files if name.startswith("held-out/tile"))
    assert len(tiles) == 5
