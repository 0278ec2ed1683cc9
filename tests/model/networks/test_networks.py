"""Networks with the golden weights give the golden outputs; presets have the published sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff.errors import ConfigError
from samdiff.model.checkpoints.official_names import RRDB_NAMES, UNET_NAMES, to_official, to_ours
from samdiff.model.config import load_config
from samdiff.model.diffusion.modulation import modulation
from samdiff.model.diffusion.residual import from_residual, to_residual, upsample
from samdiff.model.diffusion.sampler import sample
from samdiff.model.diffusion.schedule import Schedule
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.networks.rrdb import RRDB, condition, condition_channels
from samdiff.model.networks.unet import UNet

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / "tiny_outputs.npz") as data:
        return {name: torch.from_numpy(data[name]) for name in data}


@pytest.fixture(scope="module")
def networks() -> tuple[RRDB, UNet]:
    with np.load(GOLDEN / "tiny_checkpoint.npz") as data:
        state = {name: torch.from_numpy(data[name]) for name in data}
    rrdb, unet = RRDB(5, 16, 8, 4), UNet(16, (1, 2, 3, 4), condition_channels(5, 16), 4)
    rrdb.load_state_dict(to_ours(_below(state, "rrdb."), RRDB_NAMES))
    unet.load_state_dict(to_ours(_below(state, "denoise_fn."), UNET_NAMES))
    return rrdb.eval().requires_grad_(False), unet.eval().requires_grad_(False)


def _below(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def test_rrdb_equals_the_golden_outputs(golden, networks):
    """Every feature map and the clipped image, to 1e-5."""
    rrdb, _ = networks
    maps = rrdb.features(golden["lr"])
    assert len(maps) == 6
    for index, result in enumerate(maps):
        torch.testing.assert_close(result[:1], golden[f"rrdb_feature_{index}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rrdb(golden["lr"]).clamp(-1, 1), golden["rrdb_out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("t", [0, 1, 10, 50, 90, 99])
def test_one_training_step_equals_the_golden_one(golden, networks, t):
    """x_t, target, prediction, L1 and clipped x_0 of the official modulation, to 1e-5 (x_0 at t = 99 divides by .001)."""
    rrdb, unet = networks
    official, times = modulation("official", Schedule.cosine()), torch.full((2,), t)
    x_0 = to_residual(golden["hr"], golden["lr_up"])
    torch.testing.assert_close(x_0, golden["residual"], atol=1e-6, rtol=0)
    x_t = official.q_sample(x_0, golden["e_sam"], times, golden["noise"])
    target = official.target(golden["e_sam"], times, golden["noise"])
    predicted = unet(x_t, times, condition(rrdb.features(golden["lr"])))
    for name, result in (("x_t", x_t), ("target", target), ("pred", predicted)):
        torch.testing.assert_close(result, golden[f"t{t}_{name}"], atol=1e-5, rtol=0)
    torch.testing.assert_close((predicted - target).abs().mean(), golden[f"t{t}_l1"], atol=1e-5, rtol=0)
    result = official.x_0(x_t, predicted, times).clamp(-1, 1)
    torch.testing.assert_close(result, golden[f"t{t}_x0_pred"], atol=1e-5 if t < 99 else 1e-4, rtol=0)


def test_the_whole_sampler_equals_the_golden_sample(golden, networks):
    """100 DDPM steps with the golden noise, to 1e-4."""
    rrdb, unet = networks
    given = condition(rrdb.features(golden["lr"][:1]))
    official = modulation("official", Schedule.cosine())
    noise = golden["sample_noise"]
    x_0 = sample(lambda x, t: unet(x, t, given), official, noise[0].clone(), lambda i, top, bottom: noise[i][:, :, top:bottom])
    torch.testing.assert_close(from_residual(x_0, golden["lr_up"][:1]), golden["sample_out"], atol=1e-4, rtol=0)


def test_paper_preset_has_the_published_tensors():
    """Names, shapes and counts of the full published checkpoints, through the table of official names."""
    keys = json.loads((GOLDEN / "checkpoint_keys.json").read_text())
    config = load_config("paper")
    rrdb, unet = build_rrdb(config).state_dict(), build_unet(config).state_dict()
    ours = {f"rrdb.{name}": value for name, value in to_official(rrdb, RRDB_NAMES).items()}
    ours |= {f"denoise_fn.{name}": value for name, value in to_official(unet, UNET_NAMES).items()}
    published = {name: shape for name, shape in dict(keys["full_keys"]).items() if name.startswith(("rrdb.", "denoise_fn."))}
    assert {name: list(value.shape) for name, value in ours.items()} == published
    assert sum(value.numel() for value in unet.values()) == keys["unet_parameters"] == 12934915
    assert sum(value.numel() for value in rrdb.values()) == keys["rrdb_parameters"] == 12381443
    back = to_ours(to_official(rrdb, RRDB_NAMES), RRDB_NAMES) | to_ours(to_official(unet, UNET_NAMES), UNET_NAMES)
    assert back.keys() == rrdb.keys() | unet.keys()


def test_an_unknown_official_name_is_not_guessed():
    """The table has every name; an unknown one is an error."""
    with pytest.raises(KeyError, match="downs.0.3.conv"):
        to_ours({"downs.0.3.conv.weight": torch.zeros(1)}, UNET_NAMES)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_scale_has_networks_of_the_right_size(scale):
    """LR 12 x 16 becomes 12 s x 16 s in RRDB, condition and U-Net; `joint` predicts four channels."""
    config = load_config("tiny", sets=["diffusion.modulation=joint"], scale=scale)
    rrdb, unet = build_rrdb(config), build_unet(config)
    lr = torch.zeros(1, 3, 12, 16)
    assert rrdb(lr).shape == (1, 3, 12 * scale, 16 * scale)
    out = unet(torch.zeros(1, 3, 12 * scale, 16 * scale), torch.tensor([5]), condition(rrdb.features(lr)))
    assert out.shape == (1, 4, 12 * scale, 16 * scale)


def test_a_wrong_scale_is_refused():
    with pytest.raises(ConfigError, match=r"expected one of \(1, 2, 3, 4, 8\), got 5"):
        RRDB(2, 8, 4, 5)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_channels_last_compile_and_autocast_change_little(preset):
    """One code path: bf16 autocast and channels_last stay near fp32 (torch.compile is a slow test)."""
    torch.manual_seed(0)
    config = load_config(preset)
    unet = build_unet(config).eval().requires_grad_(False)
    x, t = torch.randn(1, 3, 32, 32), torch.tensor([40])
    given = torch.randn(1, unet.condition.in_channels, 8, 8)
    plain = unet(x, t, given)
    torch.testing.assert_close(unet.to(memory_format=torch.channels_last)(x, t, given), plain, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (unet(x, t, given).float() - plain).abs().max() < 0.05 * plain.abs().max() + 0.05


@pytest.mark.slow
def test_compiled_unet_equals_eager():
    torch.manual_seed(0)
    unet = build_unet(load_config("tiny")).eval().requires_grad_(False)
    x, t, given = torch.randn(1, 3, 32, 32), torch.tensor([40]), torch.randn(1, unet.condition.in_channels, 8, 8)
    torch.testing.assert_close(torch.compile(unet)(x, t, given), unet(x, t, given), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("scale", "bands"), [(2, 1), (3, 4), (4, 3), (1, 2)])
def test_an_rrdb_that_is_added_to_bicubic(scale: int, bands: int) -> None:
    """Untrained, it is MATLAB's bicubic upsampling; after a step all weights learn; it has the tensors of any RRDB."""
    torch.manual_seed(0)
    network, plain = (RRDB(2, 8, 4, scale, bands=bands, skip=skip) for skip in (True, False))
    assert network.state_dict().keys() == plain.state_dict().keys()
    lr = torch.rand(2, bands, 6, 5) * 2 - 1
    expected = upsample(lr, scale)
    inner = (..., slice(3 * scale, -3 * scale), slice(2 * scale, -2 * scale)) if scale > 1 else (...,)
    torch.testing.assert_close(network(lr)[inner], expected[inner], atol=1e-5, rtol=0)
    torch.testing.assert_close(network.image(network.features(lr)[-1], lr), network(lr))
    torch.testing.assert_close(network.unit((lr + 1) / 2) * 2 - 1, network(lr))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (network(lr) - torch.rand(2, bands, 6 * scale, 5 * scale)).abs().mean().backward()
        optimizer.step()
    assert all(float(weights.grad.abs().sum()) > 0 for weights in network.parameters())


def test_stores_of_other_samples_have_it_by_default() -> None:
    assert load_config("tiny").model.rrdb_skip == "none"
    assert load_config("tiny", bands=1, rgb8=False).model.rrdb_skip == "bicubic"
    assert load_config("tiny", bands=1, rgb8=False, sets=["model.rrdb_skip=none"]).model.rrdb_skip == "none"
    assert build_rrdb(load_config("tiny", bands=1, rgb8=False)).base is not None
