"""Schedule, modulations and samplers against simulation, Bayes' rule and a toy whose ideal predictor is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff import Schedule
from samdiff.errors import ConfigError
from samdiff.model.diffusion.modulation import MODULATIONS, modulation, posterior_coefs, time_grid
from samdiff.model.diffusion.sampler import INCOMPATIBLE, SAMPLERS, plan_sampling, sample

GOLDEN = Path(__file__).parents[2] / "golden"


def test_cosine_schedule_equals_the_official_buffers():
    """All published buffers to 1e-6, and the official coefficient."""
    schedule = Schedule.cosine()
    buffers = {
        "betas": schedule.betas,
        "alphas_cumprod": schedule.alpha_bars,
        "posterior_variance": schedule.posterior_variance,
        "posterior_mean_coef1": schedule.posterior_mean_x0,
        "posterior_mean_coef2": schedule.posterior_mean_xt,
        "official_coefficient": modulation("official", schedule).target_coef,
    }
    with np.load(GOLDEN / "tiny_outputs.npz") as data:
        for name, result in buffers.items():
            np.testing.assert_allclose(result, data[f"schedule_{name}"], atol=1e-6, err_msg=name)


def test_phi_by_its_sum_and_by_its_recursion():
    """phi_t = sum_i sqrt(abar_t b_i / abar_i); the misprint sqrt(abar_t / abar_i) b_i is another number."""
    s = Schedule.cosine()
    for t in (0, 1, 50, 99):
        i = slice(0, t + 1)
        total = (s.alpha_bars[t] * s.betas[i] / s.alpha_bars[i]).sqrt().sum()
        misprint = ((s.alpha_bars[t] / s.alpha_bars[i]).sqrt() * s.betas[i]).sum()
        assert s.phi_at(t) == pytest.approx(float(total), rel=1e-12)
        assert t == 0 or abs(float(misprint) - s.phi_at(t)) > 0.01
    in_noise = s.phi / (1 - s.alpha_bars).sqrt()
    assert (round(float(in_noise.max())), int(in_noise.argmax()) + 1) == (7, 72)  # shifted by up to 7 E, at the paper's t = 72
    assert int(s.phi_at(99) / (1 - s.alpha_bar(99)) ** 0.5 * 100) == 108  # 1.08 E at the end


def test_the_chain_simulated_has_the_closed_form():
    """200,000 chains of q(x_t | x_{t-1}, E) = N(sqrt(1-b) x + sqrt(b) E, b): mean sqrt(abar) x_0 + phi E, variance 1 - abar."""
    schedule, n, x_0, e = Schedule.cosine(), 200_000, 0.3, 0.6
    process = modulation("paper", schedule)
    x, generator = torch.full((n,), x_0, dtype=torch.float64), torch.Generator().manual_seed(0)
    for t, beta in enumerate(schedule.betas.tolist()):
        noise = torch.randn(n, generator=generator, dtype=torch.float64)
        x = math.sqrt(1 - beta) * x + math.sqrt(beta) * e + math.sqrt(beta) * noise
        if t in (0, 10, 50, 72, 99):
            spread = math.sqrt(1 - schedule.alpha_bar(t))
            mean = math.sqrt(schedule.alpha_bar(t)) * x_0 + schedule.phi_at(t) * e
            assert float(x.mean()) == pytest.approx(mean, abs=5 * spread / math.sqrt(n))
            assert float(x.std()) == pytest.approx(spread, rel=0.01)
            ones = torch.ones(1, 1, 1, 1, dtype=torch.float64)
            drawn = process.q_sample(x_0 * ones, e * ones, torch.tensor([t]), 0 * ones)
            assert float(drawn) == pytest.approx(mean, abs=1e-12)


@pytest.mark.parametrize(("t", "s"), [(1, 0), (50, 49), (99, 98), (60, 30), (99, 10)])
def test_posterior_by_bayes_rule(t, s):
    """Mean and variance of q(x_s | x_t, x_0, E) on a grid, from prior times likelihood, equal the jump's closed form."""
    schedule, x_0, e, eps = Schedule.cosine(), 0.2, 0.7, -0.8
    a, psi, variance = posterior_coefs(schedule, t, s)
    abar_t, abar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
    x_t = math.sqrt(abar_t) * x_0 + schedule.phi_at(t) * e + math.sqrt(1 - abar_t) * eps
    x_s = np.linspace(-30, 30, 2_000_001)
    prior = -((x_s - math.sqrt(abar_s) * x_0 - schedule.phi_at(s) * e) ** 2) / (2 * (1 - abar_s))
    likelihood = -((x_t - a * x_s - psi * e) ** 2) / (2 * (1 - a * a))
    weight = np.exp(prior + likelihood - (prior + likelihood).max())
    weight /= weight.sum()
    mean = (weight * x_s).sum()
    assert mean == pytest.approx((x_t - psi * e - (1 - a * a) / math.sqrt(1 - abar_t) * eps) / a, abs=1e-5)
    assert (weight * (x_s - mean) ** 2).sum() == pytest.approx(variance, rel=1e-4)
    c = eps + psi * math.sqrt(1 - abar_t) / (1 - a * a) * e  # what `paper` predicts on this grid
    assert mean == pytest.approx((x_t - (1 - a * a) / math.sqrt(1 - abar_t) * c) / a, abs=1e-5)


def test_paper_with_all_steps_is_the_papers_coefficient():
    """psi sqrt(1-abar_t)/(1-A^2) on the full grid = sqrt(1-abar_t)/sqrt(b_t), and the one-step psi = sqrt(b_t)."""
    s = Schedule.cosine()
    torch.testing.assert_close(modulation("paper", s).target_coef, ((1 - s.alpha_bars) / s.betas).sqrt())
    assert posterior_coefs(s, 40, 39)[1] == pytest.approx(math.sqrt(float(s.betas[40])), rel=1e-9)


@pytest.mark.parametrize("name", MODULATIONS)
def test_x0_from_the_target(name):
    """Exact for none, official and joint; for paper off by (phi - (1-abar)/sqrt(b))/sqrt(abar) E: 2.4 E at t = 50, 8.7 E at 75."""
    schedule, generator = Schedule.cosine(), torch.Generator().manual_seed(1)
    process = modulation(name, schedule)
    x_0, e, noise = (torch.randn(4, c, 3, 3, generator=generator, dtype=torch.float64) for c in (3, 1, 3))
    t = torch.tensor([0, 10, 49, 74])  # the paper counts from 1
    result = process.x_0(process.q_sample(x_0, e, t, noise), process.target(e, t, noise), t)
    off = torch.zeros(4, dtype=torch.float64)
    if name == "paper":
        off = (schedule.phi - (1 - schedule.alpha_bars) / schedule.betas.sqrt())[t] / schedule.alpha_bars[t].sqrt()
        assert [round(float(abs(value)), 1) for value in off[2:]] == [2.4, 8.7]
    torch.testing.assert_close(result - x_0, (off[:, None, None, None] * e).expand(-1, 3, -1, -1), atol=1e-9, rtol=1e-9)


def _ideal(process, n, x_mean=0.1, x_std=0.15):
    """E[c | x_t, E] for x_0 ~ N(.1, .15^2) and E ~ N(.5, .3^2) known to the predictor: c is linear in E[eps | x_t]."""
    e = 0.5 + 0.3 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    abar = process.schedule.alpha_bars

    def predict(x, t):
        a, u, k = abar[t[0]], process.x_coef[t[0]], process.target_coef[t[0]]
        eps = (1 - a).sqrt() * (x - a.sqrt() * x_mean - u * e) / (a * x_std**2 + 1 - a)
        return torch.cat([eps, e], dim=1) if process.name == "joint" else eps + k * e

    if process.name == "joint":  # three channels as in use
        return lambda x, t: torch.cat([(c := predict(x[:, :1], t))[:, :1].expand(-1, 3, -1, -1), c[:, 1:]], dim=1)
    return predict


def _toy(name, sampler, steps, grid=None, n=20_000):
    process = modulation(name, Schedule.cosine(), grid)
    generator = torch.Generator().manual_seed(3)
    shape = (n, 3 if name == "joint" else 1, 1, 1)

    def noise(*_):
        drawn = torch.randn(n, 1, 1, 1, generator=generator, dtype=torch.float64)
        return drawn.expand(shape)

    x = sample(_ideal(process, n), process, noise().clone(), noise, sampler, steps)[:, 0]
    return float(x.mean()), float(x.std())


@pytest.mark.parametrize(
    ("name", "sampler", "steps", "spread"),
    [
        ("none", "ddpm", 100, 0.136),
        ("none", "ddpm", 10, 0.084),
        ("official", "ddpm", 100, 0.136),
        ("official", "ddpm", 10, 0.084),
        ("joint", "ddpm", 100, 0.136),
        ("joint", "ddpm", 10, 0.084),
        ("paper", "paper", 100, 0.136),
        ("paper", "paper", 10, 0.084),
        ("none", "ddim", 100, None),
        ("official", "ddim", 100, None),
        ("joint", "ddim", 100, None),
        ("none", "ddim", 25, None),
        ("joint", "ddim", 25, None),
        ("none", "dpm2m", 100, None),
        ("official", "dpm2m", 10, None),
    ],
)
def test_allowed_pairs_sample_the_toy(name, sampler, steps, spread):
    """Mean .100 at any allowed number of steps; the spread of `none` with the same sampler and steps."""
    mean, std = _toy(name, sampler, steps, steps if name == "paper" and steps < 100 else None)
    assert mean == pytest.approx(0.100, abs=0.004)
    expected = _toy("none", sampler, steps)[1] if spread is None else spread
    assert std == pytest.approx(expected, abs=0.004)


def test_the_second_order_solver_earns_its_name():
    """The exact flow has spread .150; with 20 steps DPM-Solver++(2M) is more than twice as near to it than DDIM."""
    first, second = (abs(_toy("none", sampler, 20)[1] - 0.150) for sampler in ("ddim", "dpm2m"))
    assert second < first / 2


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 5), ("ddim", 10), ("dpm2m", 5), ("dpm2m", 10)])
def test_few_steps_do_not_magnify_the_networks_error(sampler, steps):
    """A prediction that is off by .02 moves the sample by less than .02; begun at t = T - 1 it would by .03 to .045."""
    n, process = 20_000, modulation("none", Schedule.cosine())
    ideal = _ideal(process, n)
    start = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    right, wrong = (
        sample(lambda x, t, off=off: ideal(x, t) + off, process, start.clone(), None, sampler, steps) for off in (0, 0.02)
    )
    assert float((wrong - right).mean().abs()) < 0.02


def test_few_steps_begin_where_the_picture_can_be_seen():
    """sqrt(abar) is .1 to .2 at the first of few times; all steps, and `paper`, keep the process's own end."""
    process = modulation("official", Schedule.cosine())
    times = plan_sampling(process, "ddim", 10).times
    assert 0.1 <= process.schedule.alpha_bar(times[0]) ** 0.5 < 0.2
    assert len(times) == len(set(times)) == 10
    assert times[-1] == 0
    assert plan_sampling(process).times == plan_sampling(process, "ddpm", 100).times == tuple(range(99, -1, -1))
    assert plan_sampling(modulation("paper", Schedule.cosine()), "paper-clipped", 10).times[0] == 99
    assert [Schedule.cosine(steps).t_start for steps in (1, 2, 3)] == [0, 1, 2]


def test_the_clipped_paper_sampler_is_biased_as_known():
    """FACTS of the toy: mean .043 in place of .100; that is why it has a name of its own."""
    assert _toy("paper", "paper-clipped", 100)[0] == pytest.approx(0.043, abs=0.004)


@pytest.mark.parametrize("pair", sorted(INCOMPATIBLE))
def test_wrong_pairs_are_refused_by_name(pair):
    """The error names both and the samplers that fit."""
    name, sampler = pair
    with pytest.raises(
        ConfigError,
        match=f"sampler '{sampler}' with modulation '{name}': .*(it is defined for modulation 'paper' only|samples drift|another E)",
    ):
        plan_sampling(modulation(name, Schedule.cosine()), sampler)
    allowed = {(m, s) for m in MODULATIONS for s in SAMPLERS} - set(INCOMPATIBLE)
    assert len(allowed) == 10


def test_paper_on_a_coarse_grid_keeps_to_it():
    """A model trained for 10 steps is sampled with 10, not with 25."""
    with pytest.raises(ConfigError, match="trained for 10 steps, got 25"):
        plan_sampling(modulation("paper", Schedule.cosine(), 10), "paper", 25)
    with pytest.raises(ConfigError, match="any number of steps"):
        modulation("none", Schedule.cosine(), 10)


def test_time_grids():
    """All steps, few steps, one step; too many are an error."""
    assert time_grid(100, 100) == tuple(range(99, -1, -1))
    assert time_grid(100, 5) == (99, 74, 50, 25, 0)
    assert time_grid(100, 1) == (99,)
    for steps in (0, 101):
        with pytest.raises(ConfigError, match=f"expected 1 to 100 .*, got {steps}"):
            time_grid(100, steps)


def test_a_modulation_that_needs_masks_says_so():
    process = modulation("official", Schedule.cosine())
    with pytest.raises(ConfigError, match="needs E_SAM, and none was given"):
        process.target(None, torch.tensor([3]), torch.zeros(1, 3, 2, 2))
    with pytest.raises(ConfigError, match="expected one of none, official, paper, joint, got 'sam'"):
        modulation("sam", Schedule.cosine())


def test_schedules_are_checked():
    assert len(Schedule.linear(50)) == 50
    assert Schedule.linear(1000).alpha_bar(999) < 1e-4
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Schedule(torch.tensor([0.1, 1.0]))


@pytest.mark.parametrize("steps", [2, 3, 10, 100, 1000, 4000])
@pytest.mark.parametrize("build", [Schedule.cosine, Schedule.linear])
def test_any_number_of_steps_destroys_the_picture(build, steps):
    """Signal falls all the way from nearly 1 to nearly 0 for any T; tables have T entries."""
    schedule = build(steps)
    assert len(schedule) == len(schedule.phi) == steps
    assert (schedule.alpha_bars.diff() < 0).all()
    assert float(schedule.alpha_bars[-1]) < 2e-3
    assert steps < 10 or float(schedule.alpha_bars[0]) > 0.9
