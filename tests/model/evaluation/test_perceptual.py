"""LPIPS and DISTS as columns of tables: with random weights, and (where the cache has them) with the published ones."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.cli import main
from samdiff.model.evaluation import perceptual
from samdiff.model.evaluation.perceptual import load_measures, seeded
from samdiff.model.inference.image_io import open_image, save_image
from samdiff.model.losses import DISTS, LPIPS, METRICS
from samdiff.model.losses.perceptual import load_perceptual
from samdiff.model.losses.weights import has_weights
from samdiff.pipeline.degrade.imresize import imresize

from ...helpers.models import write_model


def textured(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: waves, blocks and a little noise; the same everywhere."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = [np.sin(x / 3 + channel) * np.cos(y / (4 + channel)) for channel in range(3)]
    blocks = ((x // 12 + y // 9) % 3)[..., None] - 1
    noise = np.random.default_rng(0).standard_normal((height, width, 1))
    return np.clip(128 + 45 * np.stack(waves, axis=2) + 50 * blocks + 4 * noise, 0, 255).astype(np.uint8)


@pytest.fixture
def random_weights(monkeypatch):
    """Networks with random weights in place of the published ones."""

    def load(name: str, device: torch.device, download: bool = True) -> LPIPS | DISTS:
        torch.manual_seed(len(name))
        network = {"lpips": lambda: LPIPS("alex"), "lpips-vgg": lambda: LPIPS("vgg"), "dists": DISTS}[name]()
        for part in network.parameters():
            if part.ndim == 1:
                part.data.fill_(0.1)
        return network.to(device)

    monkeypatch.setattr(perceptual, "load_perceptual", load)
    return load


def test_evaluate_names_the_exact_model(random_weights, tmp_path, monkeypatch, capsys):
    """No pyiqa needed; a column per metric in their order; the models in the table and in JSON; NaN and a reason where sides are too short."""
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    save_image(textured(32, 40), tmp_path / "set" / "x.png")
    words = ["--benchmark", str(tmp_path / "set"), "--checkpoint", str(write_model(tmp_path / "m.safetensors")), "--steps", "1"]
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *words, "--metrics", "dists,lpips,lpips-vgg", "-o", str(tmp_path / "out")])
    assert not stopped.value.code
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| dists | lpips | lpips-vgg |" in table
    assert "lpips: LPIPS v0.1, AlexNet; RGB (sRGB), no crop" in table
    facts = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert facts["metric_models"]["dists"] == "DISTS 0.1, VGG16; RGB (sRGB), no crop"
    lr, hr = imresize(textured(32, 40), 1 / 4), textured(32, 40)
    a, b = (torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1 for image in (imresize(lr, 4), hr))
    expected = random_weights("lpips", torch.device("cpu"))(a, b).item()
    assert facts["pictures"][0]["lpips"] == pytest.approx(expected, abs=1e-6)
    measures = load_measures(["lpips"], torch.device("cpu"))
    assert np.isnan(measures.images["lpips"](hr[:30], hr[:30]))
    assert "at least 31 pixels" in measures.skipped["lpips"]


def test_grey_is_rgb_with_equal_bands(random_weights):
    metric = load_measures(["lpips"], torch.device("cpu")).images["lpips"]
    a, b = textured(40, 36)[..., 0], textured(40, 36)[..., 1]
    assert metric(a, b) == metric(np.stack([a] * 3, axis=2), np.stack([b] * 3, axis=2)) > 0


def test_compare_captions(random_weights, tmp_path, capsys, monkeypatch):
    """With weights in the cache the captions have a third line, with `off` none; missing weights are reported; unknown names are an error."""
    for name, image in (("hr", textured(40, 44)), ("a", textured(40, 44)[::-1])):
        save_image(np.ascontiguousarray(image), tmp_path / f"{name}.png")
    words = ["compare", str(tmp_path / "a.png"), "--reference", str(tmp_path / "hr.png"), "-o", str(tmp_path / "sheet.png")]

    def sheet(*more: str) -> np.ndarray:
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--overwrite", *more])
        assert not stopped.value.code
        return open_image(tmp_path / "sheet.png")

    monkeypatch.setattr(perceptual, "has_weights", lambda name: name == "lpips")
    plain, more = sheet("--metrics", "off"), sheet()
    assert more.shape[0] == plain.shape[0] + 18
    assert "captions without dists: no weights in the cache" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--overwrite", "--metrics", "psnr"])
    assert "expected auto, off, or names of lpips" in capsys.readouterr().err


def test_random_metrics_draw_the_same(monkeypatch):
    """Inside they begin at one seed; outside the generators go on as if nothing had been."""

    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    undisturbed = [draws(), draws()]
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    first = draws()
    inside = []
    for _ in range(2):
        with seeded():
            inside.append(draws())
    assert inside[0] == inside[1] != first
    assert [first, draws()] == undisturbed


FROZEN = {"lpips": 0.686330, "lpips-vgg": 0.438941, "dists": 0.391951}
"""Of `textured` downsampled and upsampled, made with the packages `lpips` and `dists-pytorch` and these weights."""


@pytest.mark.parametrize("name", METRICS)
def test_published_weights(name):
    """Frozen numbers; LPIPS' own heads are those of the package, byte for byte."""
    if not has_weights(name):
        pytest.skip(f"the cache has no weights; samdiff weights {name}")
    hr = textured(96, 84)
    blurred = imresize(imresize(hr, 1 / 4), 4)
    metric = load_measures([name], torch.device("cpu")).images[name]
    assert metric(blurred, hr) == pytest.approx(FROZEN[name], abs=1e-5)
    assert abs(metric(hr, hr)) < 1e-5
    if name != "dists":
        package = pytest.importorskip("lpips")
        heads = Path(package.__file__).parent / "weights" / "v0.1" / ("alex.pth" if name == "lpips" else "vgg.pth")
        theirs = torch.load(heads, map_location="cpu", weights_only=True)
        for layer, head in enumerate(load_perceptual(name).heads):
            torch.testing.assert_close(head, theirs[f"lin{layer}.model.1.weight"].flatten(), rtol=0, atol=0)
