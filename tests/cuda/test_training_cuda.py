"""Loader and training on the device against the CPU."""

import numpy as np
import pytest
import torch

from samdiff import ShardDataset, ShardLoader, e_sam
from samdiff.model.checkpoints.format import load_checkpoint

from ..helpers.models import FLOW
from ..helpers.runs import log_lines, losses, run

PROCESSES = pytest.mark.parametrize("process", [(), ("diffusion.base=rrdb",), FLOW], ids=["ddpm", "base rrdb", "flow"])


def test_the_loader_gives_the_samples_of_the_cpu(store, device):
    """Pinned memory and a stream of its own change no byte; E_SAM by lookup on the device neither."""
    data = ShardDataset(store, patch=12)
    ours, theirs = (list(ShardLoader(data, 4, steps=12, workers=2, device=where)) for where in (device, "cpu"))
    table, offset = map(torch.as_tensor, data.codes())
    for a, b in zip(ours, theirs, strict=True):
        assert a["hr"].device.type == device.type
        for name in b:
            assert torch.equal(a[name].cpu(), b[name]), name
        maps = [e_sam(x["labels"], x["image"], table.to(x["hr"].device), offset.to(x["hr"].device)) for x in (a, b)]
        assert torch.equal(maps[0].cpu(), maps[1])


def test_batches_are_whole_while_the_device_is_busy(store, device):
    """A long queue of work on the step's stream: the copies of later batches, made meanwhile, neither overtake nor overwrite it."""
    data = ShardDataset(store, patch=12)
    busy = torch.ones(1500, 1500, device=device) / 1500
    expected = [int(batch["hr"].sum()) for batch in ShardLoader(data, 4, steps=30, workers=0)]
    sums = []
    for batch in ShardLoader(data, 4, steps=30, workers=2, device=device):
        for _ in range(20 if device.type == "cuda" else 1):
            busy = busy @ busy
        sums.append(batch["hr"].sum() + (busy[0, 0] * 0).long())
    assert [int(value) for value in sums] == expected


@PROCESSES
def test_twenty_steps_equal_the_cpu(store, tmp_path, device, process):
    """fp32, both stages: the same order, crops, t and noise; losses equal to a relative 1e-4."""
    run(store, tmp_path / "device", device, *process)
    run(store, tmp_path / "cpu", torch.device("cpu"), *process)
    np.testing.assert_allclose(losses(tmp_path / "device"), losses(tmp_path / "cpu"), rtol=1e-4)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("process", [(), FLOW], ids=["ddpm", "flow"])
def test_low_precision_is_finite_and_falls(store, tmp_path, device, process, amp):
    """Finite from beginning to end and lower at the end; fp16's scaler leaves few steps out."""
    if amp == "fp16" and device.type == "cpu":
        pytest.skip("fp16 needs a GPU")
    lengths = ("train.rrdb_steps=60", "train.steps=60", "train.lr=5e-3", "train.checkpoint_every=60")
    run(store, tmp_path / "r", device, f"train.amp={amp}", *lengths, *process)
    found = losses(tmp_path / "r")
    assert np.isfinite(found).all()
    for stage in (
        (found[:60], found[60:]) if not process else (found[:60],)
    ):  # a flow's residual is what the RRDB has not learned
        assert stage[-10:].mean() < stage[:10].mean()
    assert log_lines(tmp_path / "r")[-1]["skipped"] <= 12


@PROCESSES
def test_a_resumed_run_is_the_same_to_the_bit(store, tmp_path, device, process):
    """Stopped after 7 of 20 steps of each stage; deterministic algorithms, the same card."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = run(store, tmp_path / "whole", device, *process)
        run(store, tmp_path / "parts", device, *process, "train.rrdb_steps=7", "train.steps=0")
        run(store, tmp_path / "parts", device, *process, "train.rrdb_steps=20", "train.steps=7")
        parts = run(store, tmp_path / "parts", device, *process)
    finally:
        torch.use_deterministic_algorithms(False)
    ours, theirs = (load_checkpoint(path).tensors for path in (parts, whole))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_run_of_the_device_resumes_on_the_cpu(store, tmp_path, device):
    """States travel: ten steps on the device and ten on the CPU give the losses of twenty on the CPU."""
    run(store, tmp_path / "moved", device, "train.rrdb_steps=10", "train.steps=0")
    run(store, tmp_path / "moved", torch.device("cpu"))
    run(store, tmp_path / "cpu", torch.device("cpu"))
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "cpu"), rtol=1e-4)


@pytest.mark.parametrize("setting", ["train.compile=true", "train.gradient_checkpointing=true", "train.grad_accum=2"])
def test_options_change_no_loss(store, tmp_path, device, setting):
    """Compiled, with activations computed again, or in parts: the losses of the plain run, but for rounding."""
    if device.type == "cpu" and "compile" in setting:
        pytest.skip("a rehearsal does not compile, which takes minutes on a CPU")
    lengths = ("train.rrdb_steps=5", "train.steps=5")
    run(store, tmp_path / "plain", device, *lengths)
    run(store, tmp_path / "option", device, *lengths, setting)
    np.testing.assert_allclose(losses(tmp_path / "option"), losses(tmp_path / "plain"), rtol=2e-3)
