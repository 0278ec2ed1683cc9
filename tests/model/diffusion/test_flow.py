"""The flow against its equations: exact for a known target, the right mean and spread for a Gaussian one, and where it begins."""

import math

import pytest
import torch

from samdiff.errors import ConfigError
from samdiff.model.config import load_config
from samdiff.model.diffusion.flow import PREDICTIONS, Flow
from samdiff.model.diffusion.modulation import modulation
from samdiff.model.diffusion.process import SPREAD, DdpmProcess, FlowProcess, measured_rescale
from samdiff.model.diffusion.schedule import Schedule

MEAN, SPREAD_OF_R, SIGMA = 0.3, 0.2, 0.5


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output_for(flow: Flow, x: torch.Tensor, clean: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The network output for a given `clean`, by the equations in the module docstring."""
    if flow.prediction == "clean":
        return clean
    s = float(t[0]) / flow.timesteps
    return (clean - x) / (1 - s) - (2 * s - 1) / ((1 - s) ** 2 + s**2) * x


def end(flow: Flow, predict, x: torch.Tensor, steps: int, rows: int | None = None) -> torch.Tensor:
    return list(flow.sample_steps(predict, x.clone(), flow.plan(steps=steps), rows=rows))[-1][1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 3, 8, 100])
def test_a_known_target_is_reached_in_any_number_of_steps(prediction, steps):
    flow, r = Flow(100, SIGMA, prediction), noise(2, 3, 6, 5, seed=1)
    result = end(flow, lambda x, t: output_for(flow, x, r, t), SIGMA * noise(2, 3, 6, 5), steps, rows=4)
    torch.testing.assert_close(result, r, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_gaussian_target_has_the_right_mean_and_spread(prediction):
    """r ~ N(m, q^2): E[r | x_s] is linear. One step gives the mean; a hundred give mean and variance; four the product of slopes."""
    flow, q = Flow(100, SIGMA, prediction), SPREAD_OF_R

    def slope(s: float) -> float:
        return s * q**2 / ((1 - s) ** 2 * SIGMA**2 + s**2 * q**2)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = float(t[0]) / 100
        return output_for(flow, x, MEAN + slope(s) * (x - s * MEAN), t)

    x = SIGMA * noise(400, 3, 8, 8)
    for steps in (1, 4, 100):
        result = end(flow, predict, x, steps)
        gain = math.prod(1 + (slope(i / steps) - 1) / (steps - i) for i in range(steps))  # Euler on a linear velocity
        assert float(result.mean()) == pytest.approx(MEAN, abs=0.005)
        assert float(result.std()) == pytest.approx(abs(gain) * SIGMA, rel=0.01, abs=1e-9)
    assert float(result.std()) == pytest.approx(q, rel=0.05)
    assert float(end(flow, predict, x, 1).std()) < 1e-9


def test_where_training_begins():
    """An output of zero is the base image: in any number of steps for `clean`, in one for `velocity`, whose many steps keep the noise's spread."""
    x = SIGMA * noise(50, 3, 8, 8)
    zero = lambda x, t: torch.zeros_like(x)  # noqa: E731
    for prediction, steps, spread in (("clean", 1, 0), ("clean", 5, 0), ("velocity", 1, 0), ("velocity", 100, SIGMA)):
        result = end(Flow(100, SIGMA, prediction), zero, x, steps)
        assert float(result.std()) == pytest.approx(spread, rel=0.03, abs=1e-12), (prediction, steps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_zero_for_the_truth_alone(prediction):
    """On the straight path, at all times; and a wrong clean image costs its error times 1 / (1 - s), bounded for `clean` only."""
    flow = Flow(100, SIGMA, prediction)
    t = torch.tensor([0, 50, 80, 99])
    r, eps = noise(4, 3, 4, 4, seed=1), noise(4, 3, 4, 4, seed=2)
    x = flow.q_sample(r, t, eps)
    torch.testing.assert_close(x, r + (1 - (t / 100).double()).view(4, 1, 1, 1) * (SIGMA * eps - r))
    for off in (0.0, 0.1):
        result = torch.cat([output_for(flow, x[i : i + 1], r[i : i + 1] + off, t[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(flow.clean(x, result, t), r + off)
        ours, target = flow.compared(x, result, residual=r, t=t, noise=eps)
        weights = [1, 2, 4, 4] if prediction == "clean" else [1, 2, 5, 100]
        errors = (ours - target).abs().mean(dim=(1, 2, 3))
        torch.testing.assert_close(errors, off * torch.tensor(weights, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_times_and_what_a_flow_does_not_have():
    flow = Flow(100, SIGMA)
    assert flow.plan(None, 4).times == (0, 25, 50, 75)
    assert flow.plan("euler", 3).times == (0, 33, 66)
    assert len(flow.plan().times) == 100
    for arguments, match in (
        ({"sampler": "ddpm", "steps": 4}, "only sampler is 'euler'"),
        ({"steps": 0}, "expected 1 to 100"),
        ({"steps": 101}, "expected 1 to 100"),
        ({"steps": 4, "first": 50}, "always starts from the RRDB's image"),
    ):
        with pytest.raises(ConfigError, match=match):
            flow.plan(**arguments)


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (["diffusion.process=flow"], "--modulation none"),
        (["diffusion.process=flow", "diffusion.base=rrdb"], "got base 'rrdb' and modulation 'official'"),
        (["diffusion.process=flow", "diffusion.modulation=none"], "diffusion.base=rrdb"),
        (["diffusion.process=flows"], "did you mean 'flow'"),
        (["diffusion.base=cubic"], "bicubic"),
        (["diffusion.flow_prediction=noise"], "clean, velocity"),
        (["diffusion.residual_scale=-1"], "expected 0 to 1000, got -1"),
        (["loss.perceptual=vgg"], "lpips-vgg"),
        (["loss.share=1.5"], "expected 0 to 1, got 1.5"),
    ],
)
def test_settings_that_do_not_fit(sets, match):
    with pytest.raises(ConfigError, match=match):
        load_config("tiny", sets=sets)


def test_the_scale_of_residuals():
    """As before for bicubic; not known before it is measured for the RRDB; measured, two digits of what gives the spread aimed at."""
    rrdb = ["diffusion.base=rrdb", "diffusion.modulation=none"]
    assert load_config("tiny").diffusion.build_process().rescale == 2
    with pytest.raises(ConfigError, match="not measured yet"):
        load_config("tiny", sets=rrdb).diffusion.build_process()
    made = load_config("tiny", sets=[*rrdb, "diffusion.residual_scale=7", "diffusion.process=flow"]).diffusion.build_process()
    assert isinstance(made, FlowProcess)
    assert made.rescale == 7
    residual = 0.0613 * noise(64, 3, 8, 8)
    assert measured_rescale(residual, "flow") == pytest.approx(SPREAD["flow"] / 0.0613, rel=0.05)
    assert measured_rescale(residual, "flow") in (8.1, 8.2, 8.3)
    assert measured_rescale(0 * residual, "ddpm") == 64


def test_residuals_go_there_and_back():
    image, base = 0.05 * noise(1, 3, 4, 4, seed=3), noise(1, 3, 4, 4) / 3
    for process in (DdpmProcess(modulation("none", Schedule.cosine()), 4.0), FlowProcess(Flow(10, SIGMA), 30.0)):
        torch.testing.assert_close(process.image(process.residual(base + image, base), base), base + image)
    far = DdpmProcess(modulation("none", Schedule.cosine()), 4.0)
    assert float(far.residual(base + 1, base).max()) == 1  # clipped, as its samplers clip


def test_the_time_of_one_step():
    """For ddpm the last time that holds half of x_0 or more; `paper` has none."""
    schedule = Schedule.cosine()
    time = DdpmProcess(modulation("official", schedule)).one_step_time
    assert schedule.alpha_bar(time) ** 0.5 >= 0.5 > schedule.alpha_bar(time + 1) ** 0.5
    with pytest.raises(ConfigError, match="'paper'"):
        _ = DdpmProcess(modulation("paper", schedule)).one_step_time
