"""LPIPS and DISTS against the packages of their authors, fed the same random weights; gradients; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from samdiff.errors import ConfigError
from samdiff.model.losses import DISTS, LPIPS
from samdiff.model.losses.perceptual import MIN_SIDES, PerceptualMetric
from samdiff.model.losses.weights import ALEX_CONVOLUTIONS, VGG_CONVOLUTIONS


def images(seed: int, height: int = 67, width: int = 54) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pairs in [-1, 1]: smooth, the second of each with noise. Sides that no pooling divides."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, 3, 9, 8, generator=generator) * 2 - 1
    a = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return a, (a + 0.2 * torch.randn(a.shape, generator=generator)).clamp(-1, 1)


def randomise(network: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for value in network.parameters():
        with torch.no_grad():
            scale = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.1
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
            if value.ndim == 1:
                value.abs_()


@pytest.mark.parametrize(("trunk", "numbers"), [("alex", ALEX_CONVOLUTIONS), ("vgg", VGG_CONVOLUTIONS)])
def test_lpips_equals_the_package(trunk, numbers):
    package = pytest.importorskip("lpips")
    ours = LPIPS(trunk)
    randomise(ours, seed=1)
    theirs = package.LPIPS(net=trunk, pretrained=False, pnet_rand=True, verbose=False)
    layers = dict(theirs.net.named_parameters())
    state = ours.state_dict()
    assert len(layers) == 2 * len(numbers)
    for name, value in layers.items():
        _, number, kind = name.split(".")  # sliceN.NUMBER.weight
        value.data.copy_(state[f"trunk.features.{number}.{kind}"])
    for index, head in enumerate(theirs.lins):
        head.model[-1].weight.data.copy_(state[f"heads.{index}"].view(1, -1, 1, 1))
    a, b = images(2)
    expected = theirs(a, b).detach().flatten()
    assert expected.min() > 1e-3
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-5, atol=1e-6)
    theirs.spatial = True
    expected_map = theirs(a, b).detach()[:, 0]
    assert expected_map.shape == (2, 67, 54)
    torch.testing.assert_close(ours.spatial(a, b), expected_map, rtol=1e-4, atol=1e-6)


def test_sides_are_known_without_weights():
    networks = {"lpips": LPIPS("alex"), "lpips-vgg": LPIPS("vgg"), "dists": DISTS()}
    assert {name: network.min_side for name, network in networks.items()} == MIN_SIDES


def test_a_map_of_an_image():
    """Of uint8 images; where they are equal it is zero far from the change; DISTS has none."""
    metric = PerceptualMetric("lpips", LPIPS("alex"))
    randomise(metric.network, seed=5)
    hr = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    sr = hr.copy()
    sr[:8, :8] = 0
    differences = metric.spatial(sr, hr)
    assert (differences.dtype, differences.shape) == (np.float32, (128, 128))
    assert differences[:16, :16].mean() > 10 * differences[-16:, -16:].mean()
    with pytest.raises(ConfigError, match="dists: compares statistics"):
        PerceptualMetric("dists", DISTS()).spatial(sr, hr)


def test_dists_equals_the_package(monkeypatch):
    package = pytest.importorskip("DISTS_pytorch.DISTS_pt")
    ours = DISTS()
    randomise(ours, seed=3)
    random_vgg = torchvision.models.vgg16(weights=None)
    monkeypatch.setattr(package.models, "vgg16", lambda pretrained: random_vgg)  # theirs would download
    theirs = package.DISTS(load_weights=False)
    state = ours.state_dict()
    for name, value in random_vgg.features.named_parameters():
        value.data.copy_(state[f"trunk.features.{name}"])
    theirs.alpha.data.copy_(state["alpha"].view(1, -1, 1, 1))
    theirs.beta.data.copy_(state["beta"].view(1, -1, 1, 1))
    a, b = images(4)
    expected = theirs((a + 1) / 2, (b + 1) / 2).detach()
    assert expected.min() > 1e-3
    torch.testing.assert_close(ours(a, b), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: LPIPS("alex"), lambda: LPIPS("vgg"), DISTS])
def test_gradients_reach_the_images_alone(make):
    """A step against the gradient lowers the distance; the weights are frozen; equal images have distance 0."""
    network = make()
    randomise(network, seed=5)
    assert not any(value.requires_grad for value in network.parameters())
    a, b = images(6, height=48, width=40)
    a.requires_grad_()
    distance = network(a, b).sum()
    distance.backward()
    assert torch.isfinite(a.grad).all()
    moved = a.detach() - 1e-3 * a.grad / a.grad.norm()
    assert network(moved, b).sum() < distance
    assert network(b, b).abs().max() < 1e-5


def test_gradient_is_finite_where_no_feature_fires():
    """The package's is NaN there: a flat area makes every channel of a layer zero."""
    for trunk in ("alex", "vgg"):
        network = LPIPS(trunk)
        randomise(network, seed=7)
        with torch.no_grad():
            for name, value in network.named_parameters():
                if name.endswith("bias"):
                    value.fill_(-1e6)
        a, b = images(8, height=40, width=40)
        a.requires_grad_()
        network(a, b).sum().backward()
        assert torch.isfinite(a.grad).all()


def test_the_smallest_images():
    """They are enough, one pixel less is refused; so are other shapes."""
    for network in (LPIPS("alex"), LPIPS("vgg"), DISTS()):
        side = network.min_side
        if isinstance(network, DISTS):
            randomise(network, seed=9)
        assert network(torch.zeros(1, 3, side, side + 3), torch.ones(1, 3, side, side + 3)).isfinite().all()
        with pytest.raises(ValueError, match=f"at least {side} pixels"):
            network(torch.zeros(1, 3, side + 3, side - 1), torch.ones(1, 3, side + 3, side - 1))
        with pytest.raises(ValueError, match="of one shape"):
            network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 63))
        with pytest.raises(ValueError, match="3, H, W"):
            network(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64))
