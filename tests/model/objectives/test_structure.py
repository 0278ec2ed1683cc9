"""Losses by regions, the auxiliary head and the scale head in training: by hand, published, resumed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from samdiff import load_model, open_store
from samdiff.errors import ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import LossConfig, load_config
from samdiff.model.diffusion.noise_scale import scale_of, true_scale
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.networks.heads import ScaleHead
from samdiff.model.objectives.structure import auxiliary_loss, region_weights, scale_loss, weighted_loss
from samdiff.model.training.run import train
from samdiff.model.training.state import states
from samdiff.model.training.tasks import DiffusionTask, RrdbTask
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.models import FLOW, SMALL_RUN
from ...helpers.runs import losses
from ...helpers.stores import make_store

CPU = torch.device("cpu")
NONE = "diffusion.modulation=none"
SMALL = (*SMALL_RUN, "train.rrdb_steps=3", "train.steps=6", "train.seed=3", "validate.every=0")


def run(tmp_path: Path, name: str, *more: str, start: Path | None = None, masks: tuple[int, ...] = (2, 0, 1)) -> Path:
    store = tmp_path / "a.zarr"
    if not store.exists():
        make_store(store, n=40, masks=masks)
    return train([open_store(store)], tmp_path / name, load_config("tiny", sets=[*SMALL, *more]), CPU, start=start)


def tasks_of(tmp_path: Path, *more: str) -> tuple[RrdbTask, DiffusionTask]:
    store = tmp_path / "t.zarr"
    if not store.exists():
        make_store(store, n=43)
    settings = load_config("tiny", sets=[*SMALL, "diffusion.residual_scale=4", *more])
    data = ShardDataset([open_store(store)], settings.train.patch, settings.train.seed, labels=settings.train.labels)
    torch.manual_seed(0)
    rrdb, unet = build_rrdb(settings), build_unet(settings)
    return RrdbTask(data, build_rrdb(settings), settings, CPU), DiffusionTask(data, unet, rrdb, settings, CPU)


def maps() -> torch.Tensor:
    labels = torch.zeros(2, 12, 12, dtype=torch.int64)
    labels[0, 2:8, 3:9], labels[0, 5, 5], labels[0, 9:, :] = 1, 3, 2
    return labels.to(torch.uint16)


@pytest.mark.parametrize("regions", ["mean", "boundary"])
@pytest.mark.parametrize("weight", [0.0, 3.0, 50.0])
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_a_constant_error_has_the_plain_loss(regions, weight, kind):
    loss = LossConfig(regions=regions, region_weight=weight)
    weights = region_weights(maps(), 4, loss)
    np.testing.assert_allclose(weights.mean(dim=(1, 2, 3)).numpy(), 1, rtol=1e-6)
    target = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    ours = weighted_loss(target + 0.3, target, weights, kind=kind)
    assert float(ours) == pytest.approx(float(weighted_loss(target + 0.3, target, None, kind=kind)), rel=1e-5)


def test_weights_by_loops():
    """`mean`: each region counts like the root of its area (and 1/4 like the area); `boundary`: 4 to 1."""
    error = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    labels = maps().numpy()
    roots, means = [], []
    for b in range(2):
        sizes = [(labels[b] == label).sum() for label in np.unique(labels[b])]
        regional = [error[b].numpy()[:, labels[b] == label].mean() for label in np.unique(labels[b])]
        roots.append(np.average(regional, weights=np.sqrt(sizes)))
        means.append(error[b].numpy().mean())
    expected = (np.mean(means) + 3 * np.mean(roots)) / 4
    weights = region_weights(maps(), 4, LossConfig(regions="mean"))
    assert float(weighted_loss(error, torch.zeros_like(error), weights, kind="l1")) == pytest.approx(expected, rel=1e-5)
    near = region_weights(maps(), 4, LossConfig(regions="boundary", boundary_width=1))[0, 0]
    assert float(near[2, 3] / near[0, 0]) == pytest.approx(4)
    assert float(near[5, 4] / near[0, 11]) == pytest.approx(4)
    assert region_weights(maps(), 4, LossConfig()) is None


def test_the_auxiliary_loss_by_hand():
    output = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    e = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    labels = maps().numpy()
    edge = np.zeros(labels.shape, bool)
    for axis in (1, 2):
        for shift in (1, -1):
            other = np.roll(labels, shift, axis)
            inside = np.arange(12) != (0 if shift == 1 else 11)
            edge |= (labels != other) & (inside[None, :, None] if axis == 1 else inside[None, None])
    p = 1 / (1 + np.exp(-output.numpy()[:, 0].astype(np.float64)))
    expected = -np.where(edge, np.log(p), np.log(1 - p)).mean()
    settings = LossConfig(auxiliary="boundary", boundary_width=1, auxiliary_weight=0.7)
    assert float(auxiliary_loss(output, maps(), None, loss=settings)) == pytest.approx(0.7 * expected, rel=1e-5)
    settings = LossConfig(auxiliary="e", auxiliary_weight=2)
    assert float(auxiliary_loss(output, maps(), e, loss=settings)) == pytest.approx(2 * float((output - e).abs().mean()))


@pytest.mark.parametrize("more", [(), ("loss.regions=boundary",)])
def test_both_stages_have_the_losses(tmp_path, more):
    """The untrained auxiliary head outputs 0: log 2 for boundaries, mean |E| for E; every parameter gets a gradient."""
    plain = tasks_of(tmp_path, NONE, *more)
    ours = tasks_of(tmp_path, NONE, "loss.auxiliary=boundary", "loss.auxiliary_weight=0.5", *more)
    theirs = tasks_of(tmp_path, NONE, "loss.auxiliary=e", "loss.auxiliary_weight=2", *more)
    for stage in (0, 1):
        batch = plain[1].make_batch(100, 8)
        losses = []
        for task in (plain[stage], ours[stage], theirs[stage]):
            torch.manual_seed(0)
            task.network.load_state_dict(plain[stage].network.state_dict(), strict=False)
            loss = task.loss(batch)
            loss.backward()
            losses.append(float(loss.detach()))
            assert all(parameter.grad is not None for parameter in task.network.parameters())
        assert losses[1] - losses[0] == pytest.approx(0.5 * np.log(2), rel=1e-5)
        e = plain[1].e_sam(batch)
        assert float(e.abs().max()) > 0
        assert losses[2] - losses[0] == pytest.approx(2 * float(e.abs().mean()), rel=1e-4)


@pytest.mark.parametrize("process", [(NONE,), FLOW])
def test_the_network_sees_its_own_estimate(tmp_path, process):
    """x_t is made with S^, S is the target of the head alone; by an independent formula."""
    _, task = tasks_of(tmp_path, *process, "diffusion.scale_from=masks", "loss.scale_weight=0.5")
    torch.nn.init.normal_(task.network.scale_head.up.weight, std=0.5)
    torch.nn.init.normal_(task.network.out.weight, std=0.5)
    batch = task.make_batch(100, 4)
    loss = task.loss(batch)
    hr, lr = task.images(batch)
    given, base = task.given(lr)
    g = task.config.diffusion.rescale
    log_scale = task.network.log_scale(given)
    x_0 = task.process.residual(hr, base)
    true = true_scale(x_0, batch["labels"], source="masks", count=3, sigma=1, rescale=g)
    estimate = scale_of(log_scale, g)
    assert float(estimate.std()) > 0.01
    if process is FLOW:
        x = task.process.q_sample(x_0, None, batch["t"], batch["noise"] * estimate / 0.5)
        ours, target = task.process.compared(
            x, task.network(x, batch["t"], given), residual=x_0, e=None, t=batch["t"], noise=batch["noise"] * estimate / 0.5
        )
    else:
        x = task.process.q_sample((x_0 * 0.125 / estimate).clamp(-1, 1), None, batch["t"], batch["noise"])
        ours, target = task.network(x, batch["t"], given), batch["noise"]
    expected = (ours - target).abs().mean() + 0.5 * (log_scale - true.log()).abs().mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    own = torch.autograd.grad(0.5 * (log_scale - true.log()).abs().mean(), list(task.network.scale_head.parameters()))
    for ours, parameter in zip(own, task.network.scale_head.parameters(), strict=True):  # nothing of it from the main loss
        torch.testing.assert_close(parameter.grad, ours, rtol=1e-4, atol=1e-7)


def test_the_other_initial_weights_stay_the_same(tmp_path):
    """A pair of runs, with and without a prior, starts from the same U-Net."""
    (_, plain), (_, scaled) = tasks_of(tmp_path, NONE), tasks_of(tmp_path, NONE, "diffusion.scale_from=blur")
    with torch.no_grad():
        first = scaled.network.log_scale(torch.randn(1, scaled.network.condition.in_channels, 5, 6)).exp()
    torch.testing.assert_close(first, torch.full((1, 1, 20, 24), 0.125))
    for name, value in plain.network.state_dict().items():
        assert torch.equal(scaled.network.state_dict()[name], value)


def test_the_head_learns_the_scale():
    """From features that tell S, 200 steps bring L1 on log S from a third to under a tenth; its start is one constant."""
    torch.manual_seed(0)
    head = ScaleHead(4, 8, scale=4, first=0.125)
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(200):
        features = torch.randn(2, 4, 3, 5).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        log_scale = np.log(0.125) + 0.4 * F.interpolate(features[:, :1], scale_factor=4, mode="nearest")
        loss = scale_loss(head(features), log_scale.exp(), loss=LossConfig(scale_weight=1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(0.4 * np.sqrt(2 / np.pi), rel=0.3)  # mean of |0.4 N(0, 1)|
    assert np.mean(losses[-10:]) < 0.1


PRIORS = {
    "scale": (NONE, "diffusion.scale_from=masks"),
    "flow": (*FLOW, "diffusion.scale_from=blur", "loss.regions=mean"),
    "boundary": (NONE, "loss.regions=boundary", "loss.auxiliary=boundary"),
    "e": ("diffusion.modulation=joint", "loss.auxiliary=e", "train.labels=shuffled"),
}


@pytest.mark.parametrize("prior", PRIORS)
def test_resume_is_exact_and_the_model_has_no_auxiliary_head(tmp_path, prior):
    """6 steps at once and 2 + 4, bit for bit, in both stages; the published file is what inference needs."""
    more = (*PRIORS[prior], "train.rrdb_steps=3")
    whole = run(tmp_path, "whole", *more)
    run(tmp_path, "parts", *more, "train.steps=2")
    part = run(tmp_path, "parts", *more)
    ours, theirs = (load_checkpoint(states(path.parent, "diffusion")[-1]) for path in (whole, part))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    auxiliary = "loss.auxiliary" in " ".join(more)
    assert ("network.auxiliary.weight" in ours.tensors) is ("ema.auxiliary.bias" in ours.tensors) is auxiliary
    assert ("network.scale_head.up.weight" in ours.tensors) is ("scale_from" in " ".join(more))
    rrdb_state = load_checkpoint(states(whole.parent, "rrdb")[-1]).tensors
    assert ("network.auxiliary.weight" in rrdb_state) is auxiliary
    published = load_checkpoint(whole, "diffusion").tensors
    assert not [name for name in published if "auxiliary" in name]
    assert any("scale_head" in name for name in published) is ("scale_from" in " ".join(more))
    model = load_model(whole, CPU)
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    assert model.upscale(image, steps=2).shape == (36, 44, 3)
    again = run(tmp_path, "tuned", *more, "train.rrdb_steps=0", "train.steps=1", start=whole)
    assert load_checkpoint(again).facts["step"] == 1


def test_what_may_change_in_a_run(tmp_path):
    """Weights of losses may; what determines the tensors or the samples may not."""
    run(tmp_path, "r", NONE)
    run(tmp_path, "r", NONE, "train.steps=7", "loss.regions=boundary", "loss.region_weight=2")
    for setting, match in (
        ("loss.auxiliary=boundary", "loss.auxiliary: was 'none', now 'boundary'"),
        ("diffusion.scale_from=masks", "diffusion.scale_from: was 'none', now 'masks'"),
        ("train.labels=shuffled", "train.labels: was 'masks', now 'shuffled'"),
    ):
        with pytest.raises(ConfigError, match=match):
            run(tmp_path, "r", NONE, setting)


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("diffusion.scale_from=masks", "diffusion.scale_from 'masks'"),
        ("loss.regions=mean", "loss.regions 'mean'"),
        ("loss.auxiliary=e", "loss.auxiliary 'e'"),
        ("train.labels=shuffled", "train.labels 'shuffled'"),
    ],
)
def test_a_store_without_masks_is_refused(tmp_path, setting, name):
    with pytest.raises(ConfigError, match=f"{name} needs masks, and .*a.zarr has none; prepare it with a segmenter"):
        run(tmp_path, "r", NONE, setting, masks=(0, 0, 0))
    assert not (tmp_path / "r").exists()


def test_scales_that_need_no_masks(tmp_path):
    for source in ("blur", "crop"):
        run(tmp_path, source, NONE, f"diffusion.scale_from={source}", masks=(0, 0, 0))


def test_a_flow_with_a_scale_starts_from_the_rrdb(tmp_path):
    model = load_model(run(tmp_path, "r", *FLOW, "diffusion.scale_from=masks", "train.steps=0"), CPU)
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    np.testing.assert_array_equal(model.upscale(image, steps=3), model.regress(image))


def test_the_oracle_is_for_studies(tmp_path):
    with pytest.raises(ConfigError, match="validation has no true scale for 'oracle'.*validate.every=0"):
        run(tmp_path, "r", NONE, "diffusion.scale_from=oracle", "validate.every=2")
    model = load_checkpoint(run(tmp_path, "r", NONE, "diffusion.scale_from=oracle"))
    assert not [name for name in model.tensors if "scale_head" in name]


@pytest.mark.slow
def test_several_processes_equal_one(tmp_path):
    """torchrun with gloo: both heads get their gradients although the scale head is called before the wrapped network."""
    sets = (NONE, "diffusion.scale_from=masks", "loss.auxiliary=boundary", "loss.regions=mean", "train.log_every=1")
    alone = run(tmp_path, "one", *sets).parent
    worker = Path(__file__).parents[2] / "helpers" / "ddp_worker.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(worker)]
    words = [*command, str(tmp_path / "a.zarr"), str(tmp_path / "two"), *SMALL, *sets]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = losses(alone), losses(tmp_path / "two")
    assert len(ours) == 9
    np.testing.assert_allclose(theirs, ours, rtol=1e-4)
