"""How long a run has left: one total, corrected by what the steps really take."""

import torch

from samdiff import open_store
from samdiff.model.networks.build import build_rrdb
from samdiff.model.training.cost_estimate import Pace, Part, time_step, validation_seconds, validations_left
from samdiff.model.training.run import train
from samdiff.model.training.tasks import RrdbTask
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.stores import make_store
from .test_train import config

CPU = torch.device("cpu")


def test_validations_left_against_counting():
    for every in (1, 3, 5, 100):
        for steps in (0, 1, 9, 10, 15):
            for done in range(steps + 1):
                counted = sum(step % every == 0 or step == steps for step in range(done + 1, steps + 1))
                assert validations_left(done, steps, every) == counted
    assert validations_left(0, 10, 0) == 0


def test_validation_seconds():
    """A third of a step's time per pixel and evaluation."""
    assert validation_seconds(6.0, step_pixels=1000, pixels=500, evaluations=10) == 10.0


def test_one_total_and_its_correction():
    """Both stages and validation in one number; after twenty steps what they took counts, without validation and the first step."""
    lines: list[str] = []
    now = [0.0]
    pace = Pace([Part("rrdb", 60, 10.0, 3, 100.0), Part("diffusion", 100, 20.0, 2, 50.0)], lines.append, clock=lambda: now[0])
    assert pace.left == 600 + 300 + 2000 + 100
    assert pace.line("rrdb", 16) == "about 10 min for 60 steps of 16, about 50 min in all with diffusion stage and validation"
    pace.begin()
    now[0] += 500  # compiles
    pace.step("rrdb")
    for _ in range(19):
        now[0] += 2
        pace.step("rrdb")
        now[0] += 30
        pace.paused("rrdb", 30.0, validated=False)
    assert pace.parts["rrdb"].step_s == 2.0
    assert lines == ["rrdb: after 20 steps, about 41 min left in all"]  # 40 x 2 + 300 + 2000 + 100
    pace.paused("rrdb", 40.0, validated=True)
    pace.step("rrdb")
    pace.rate("rrdb", 3.0)
    assert pace.left == 39 * 3 + 2 * 40 + 2100
    pace.begin()
    pace.step("diffusion")
    pace.rate("diffusion", 1.0)  # not before the first steps are over
    assert pace.parts["diffusion"].seconds == 99 * 20 + 100
    pace.step("unknown")


def test_timing_changes_nothing(tmp_path):
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    task = RrdbTask(ShardDataset(store, 12), build_rrdb(config()), config(), CPU)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    assert time_step(task, share=4, pieces=2, device=CPU) > 0
    assert all(torch.equal(value, before[name]) for name, value in task.network.state_dict().items())
    assert all(parameter.grad is None for parameter in task.network.parameters())


def test_training_without_a_terminal_reports_step_loss_rate_and_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    reported: list[str] = []
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    more = ("validate.every=0", "train.log_every=1", "train.rrdb_steps=24", "train.steps=2")
    train([store], tmp_path / "r", config(*more), CPU, report=reported.append)
    first = reported[0]
    assert " about " in first
    assert "for 24 steps of 4" in first
    assert "in all with diffusion stage" in first
    assert any(line.startswith("rrdb: after 20 steps, about ") for line in reported)
    lines = capsys.readouterr().err.splitlines()
    rrdb, diffusion = ([line for line in lines if line.startswith(name)] for name in ("rrdb: ", "diffusion: "))
    assert rrdb[0].startswith("rrdb: 1 of 24 steps, loss 0.")
    assert " samples/s, about " in rrdb[0]
    assert rrdb[0].endswith(" left")
    assert rrdb[-1].startswith("rrdb: 24 of 24 steps, ")
    assert diffusion[-1].startswith("diffusion: 2 of 2 steps, ")
