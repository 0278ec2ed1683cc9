"""The local scale of the noise: S by loops, and sampling that stays exact for any estimate of it."""

import math
from collections import deque

import numpy as np
import pytest
import torch

from samdiff.errors import ConfigError
from samdiff.model.config import load_config
from samdiff.model.diffusion.noise_scale import SIGNAL, bounds, check_scale, given_scale, scale_of, true_scale
from samdiff.model.diffusion.regions import areas, near_boundary, region_means

from ...helpers.models import FLOW

DDPM = ("diffusion.modulation=none",)


def label_maps(side: int = 20, count: int = 7) -> torch.Tensor:
    """Two maps [2, side, side]: blobs of several sizes, label 5 nowhere; and one region only."""
    rng = np.random.default_rng(1)
    coarse = rng.choice([0, 1, 2, 3, 4, 6], size=(side // 4, side // 4))
    first = np.kron(coarse, np.ones((4, 4), np.int64))
    first[3, 7] = 6  # a fragment of one pixel
    return torch.from_numpy(np.stack([first, np.full((side, side), count - 1)]).astype(np.uint16))


def residuals(side: int = 20, seed: int = 0) -> torch.Tensor:
    """Residuals [2, 3, side, side] whose spread differs from place to place, mostly below 1."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.001, 0.4, side).view(1, 1, 1, side)
    return torch.randn(2, 3, side, side, generator=generator) * spread


def test_areas_and_means_by_loops():
    labels, values = label_maps(), residuals().square().mean(dim=1)
    expected_area, expected_mean = np.zeros(labels.shape, np.int64), np.zeros(labels.shape)
    for b in range(2):
        for label in range(7):
            inside = labels[b].numpy() == label
            expected_area[b][inside] = inside.sum()
            expected_mean[b][inside] = values[b].numpy()[inside].astype(np.float64).mean() if inside.any() else 0
    np.testing.assert_array_equal(areas(labels, 7).numpy(), expected_area)
    np.testing.assert_allclose(region_means(values, labels, 7).numpy(), expected_mean, rtol=1e-5)
    order = torch.from_numpy(np.random.default_rng(0).permutation(400))  # sums do not depend on the order of pixels
    moved = [tensor.flatten(1)[:, order].view(2, 20, 20) for tensor in (values, labels.int())]
    again = region_means(moved[0], moved[1], 7)
    assert torch.equal(again.flatten(1), region_means(values, labels, 7).flatten(1)[:, order])


@pytest.mark.parametrize("width", [1, 2, 4])
def test_boundaries_by_loops(width):
    labels = label_maps()
    expected = np.zeros(labels.shape, bool)
    for b, y, x in np.ndindex(*labels.shape):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < 20 and x + dx < 20 and labels[b, y, x] != labels[b, y + dy, x + dx]:
                for py, px in ((y, x), (y + dy, x + dx)):
                    expected[b, max(0, py - width + 1) : py + width, max(0, px - width + 1) : px + width] = True
    np.testing.assert_array_equal(near_boundary(labels, width).numpy(), expected)
    assert not expected[1].any()


def test_the_true_scale_by_loops():
    """Masks, crop and blur, by plain sums over pixels; each within its bounds."""
    labels, x_0 = label_maps(), residuals()
    given = {"labels": labels, "count": 7, "sigma": 1.5, "rescale": 2.0}
    energy = x_0.double().square().mean(dim=1).numpy()
    low, high = bounds(2.0)
    assert (low, high) == (pytest.approx(4 / 255), 4)
    masks = np.zeros_like(energy)
    blur = np.zeros_like(energy)
    offsets = np.arange(20)
    for b in range(2):
        for label in np.unique(labels[b].numpy()):
            inside = labels[b].numpy() == label
            masks[b][inside] = energy[b][inside].mean()
        for y, x in np.ndindex(20, 20):
            near = (abs(offsets[:, None] - y) <= 5) & (abs(offsets[None] - x) <= 5)
            weight = near * np.exp(-((offsets[:, None] - y) ** 2 + (offsets[None] - x) ** 2) / (2 * 1.5**2))
            blur[b, y, x] = (weight * energy[b]).sum() / weight.sum()
    crop = np.broadcast_to(energy.mean(axis=(1, 2), keepdims=True), energy.shape)
    for source, expected in (("masks", masks), ("oracle", masks), ("blur", blur), ("crop", crop)):
        ours = true_scale(x_0, source=source, **given)
        assert ours.shape == (2, 1, 20, 20)
        np.testing.assert_allclose(ours[:, 0].numpy(), np.sqrt(expected).clip(low, high), rtol=1e-4)
    assert float(true_scale(x_0 * 0, source="masks", **given).max()) == pytest.approx(low)
    with pytest.raises(ConfigError, match="expected masks, blur, crop or oracle, got 'none'"):
        true_scale(x_0, source="none", **given)


def end(process, image: torch.Tensor, base: torch.Tensor, scale, sampler: str, steps: int | None, rows=None) -> torch.Tensor:
    """The image that an ideal network leads to: it knows the clean state, and returns the noise (or the residual) that fits."""
    clean = process.residual(image, base, scale)
    generator = torch.Generator().manual_seed(3)

    def predict(x, t):
        if sampler == "euler":
            return clean
        abar = process.modulation.schedule.alpha_bars[t].view(-1, 1, 1, 1).to(x.dtype)
        return (x - abar.sqrt() * clean) / (1 - abar).sqrt()

    def noise(step, top, bottom):
        return torch.randn(*clean.shape[:2], bottom - top, clean.shape[3], generator=generator, dtype=clean.dtype)

    plan = process.plan(sampler, steps)
    x = process.start(process.noise(noise(0, 0, clean.shape[2]), scale), clean, None)
    last = deque(process.sample_steps(predict, x, noise=noise, plan=plan, rows=rows), maxlen=1)[0][1]
    return process.image(last, base, scale)


@pytest.mark.parametrize("sets", [DDPM, (*DDPM, "diffusion.base=rrdb", "diffusion.residual_scale=4"), FLOW])
@pytest.mark.parametrize("scaled", [False, True])
def test_sampling_is_exact_for_any_scale(sets, scaled):
    """Every sampler returns the image for an ideal network, whatever the scale is: one that is far from the true S, too."""
    sets = [*sets, "diffusion.residual_scale=4"] if sets is FLOW else list(sets)
    process = load_config("tiny", sets=sets).diffusion.build_process()
    generator = torch.Generator().manual_seed(1)
    base = torch.rand(2, 3, 20, 20, generator=generator, dtype=torch.float64) - 0.5
    image = base + 0.02 * residuals(seed=4).double()
    scale = (0.1 + 2 * torch.rand(2, 1, 20, 20, generator=generator, dtype=torch.float64)) if scaled else None
    for sampler in ("euler",) if sets[2:3] == ["diffusion.process=flow"] else ("ddpm", "ddim", "dpm2m"):
        for steps in (1, 5, 25, None):
            result = end(process, image, base, scale, sampler=sampler, steps=steps, rows=7)
            assert float((result - image).abs().max()) < 1e-9, (sampler, steps)


def test_what_the_scale_does():
    """S^ = d changes nothing; y_0 has the spread d where S is true; the flow's noise is proportional to S."""
    ddpm = load_config("tiny", sets=DDPM).diffusion.build_process()
    flow = load_config("tiny", sets=[*FLOW, "diffusion.residual_scale=4"]).diffusion.build_process()
    base, x_0 = torch.zeros(2, 3, 20, 20), residuals()
    image = x_0 / 2
    same = torch.full((2, 1, 20, 20), SIGNAL["ddpm"])
    torch.testing.assert_close(ddpm.residual(image, base, same), ddpm.residual(image, base))
    torch.testing.assert_close(ddpm.image(x_0, base, same), ddpm.image(x_0, base))
    plain = ddpm.residual(image, base)
    scale = true_scale(plain, label_maps(), source="masks", count=7, sigma=1, rescale=2.0)
    y_0 = ddpm.residual(image, base, scale)
    inside = (label_maps()[0] == 2)[None].expand(3, -1, -1)
    assert float(y_0[0][inside].square().mean().sqrt()) == pytest.approx(0.125, rel=1e-3)
    eps = torch.ones(2, 3, 20, 20)
    torch.testing.assert_close(flow.noise(eps, scale), eps * scale / 0.5)
    assert flow.residual(image, base, scale).equal(flow.residual(image, base))
    assert ddpm.noise(eps, scale) is eps


def test_estimates_stay_within_bounds_and_have_no_gradient():
    log_scale = torch.tensor([-50.0, math.log(0.3), 50.0], requires_grad=True)
    scale = scale_of(log_scale, 2.0)
    assert not scale.requires_grad
    np.testing.assert_allclose(scale.numpy(), [4 / 255, 0.3, 4], rtol=1e-5)


def test_a_given_scale_is_checked():
    values = np.full((3, 4), 0.2, np.float32)
    values[2, 3] = 0.5
    padded = given_scale(values, (3, 4), padded=(5, 6), rescale=2.0)
    assert padded.shape == (1, 1, 5, 6)
    assert float(padded[0, 0, 4, 5]) == 0.5
    for wrong in (values[:2], values * 0, values * np.nan):
        with pytest.raises(ConfigError, match=r"noise_scale: expected finite positive numbers of shape \[3, 4\]"):
            given_scale(wrong, (3, 4), padded=(5, 6), rescale=2.0)
    with pytest.raises(ConfigError, match="m: trained with diffusion.scale_from 'oracle'.*needs HR"):
        check_scale("oracle", False, "m")
    with pytest.raises(ConfigError, match="noise_scale: m was trained without"):
        check_scale("none", True, "m")
    check_scale("masks", False, "m")


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (["diffusion.scale_from=masks"], "scale_from: needs modulation 'none', got 'official'"),
        (["diffusion.scale_from=regions"], "scale_from: expected one of none, masks, blur, crop, oracle"),
        ([*DDPM, "diffusion.scale_sigma=0.1"], "scale_sigma: expected 0.5 to 64"),
    ],
)
def test_settings_that_do_not_fit(sets, match):
    with pytest.raises(ConfigError, match=match):
        load_config("tiny", sets=sets)
