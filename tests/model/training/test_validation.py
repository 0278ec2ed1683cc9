"""Perceptual metrics in validation: which, where their weights come from, and the report of those that are left out."""

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
from samdiff.model.losses import LPIPS, METRICS
from samdiff.model.losses.perceptual import PerceptualMetric
from samdiff.model.names import PERCEPTUAL
from samdiff.model.training.run import train
from samdiff.model.training.validation import benchmark_of, describe, score, with_perceptual
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
