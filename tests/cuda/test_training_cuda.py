"""Loader, training and inference on the device against the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff import ShardDataset, ShardLoader, e_sam, load_model, open_store
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import load_config
from samdiff.model.training.run import train

from ..helpers.stores import make_store

SMALL = [
    "model.width=8",
    "model.multipliers=[1, 2]",
    "model.rrdb_blocks=2",
    "model.rrdb_features=8",
    "model.rrdb_growth=4",
    "train.patch=12",
    "train.batch=4",
    "train.rrdb_steps=20",
    "train.steps=20",
    "train.log_every=1",
    "train.checkpoint_every=7",
    "train.lr=1e-3",
    "validate.every=0",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    make_store(path, n=40)
    return path


def run(store: Path, out: Path, device: torch.device, *more: str) -> Path:
    """The model of a run on a device."""
    return train([open_store(store)], out, load_config("tiny", sets=[*SMALL, *more]), device)


def log_lines(out: Path) -> list[dict]:
    """The lines of a run's log that hold a loss."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def losses(out: Path) -> np.ndarray:
    """Losses of both stages, step by step."""
    return np.array([line["loss"] for line in log_lines(out)])


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


@pytest.mark.parametrize(
    "process", [(), ("diffusion.modulation=none", "diffusion.base=rrdb", "diffusion.process=flow")], ids=["ddpm", "flow"]
)
def test_twenty_steps_equal_the_cpu(store, tmp_path, device, process):
    """fp32, both stages: the same order, crops, t and noise; losses equal to a relative 1e-4."""
    run(store, tmp_path / "device", device, *process)
    run(store, tmp_path / "cpu", torch.device("cpu"), *process)
    np.testing.assert_allclose(losses(tmp_path / "device"), losses(tmp_path / "cpu"), rtol=1e-4)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_low_precision_is_finite_and_falls(store, tmp_path, device, amp):
    """Finite from beginning to end and lower at the end; fp16's scaler leaves few steps out."""
    if amp == "fp16" and device.type == "cpu":
        pytest.skip("fp16 needs a GPU")
    run(store, tmp_path / "r", device, f"train.amp={amp}", "train.rrdb_steps=60", "train.steps=60", "train.lr=5e-3")
    found = losses(tmp_path / "r")
    assert np.isfinite(found).all()
    for stage in (found[:60], found[60:]):
        assert stage[-10:].mean() < stage[:10].mean()
    assert log_lines(tmp_path / "r")[-1]["skipped"] <= 12


def test_a_resumed_run_is_the_same_to_the_bit(store, tmp_path, device):
    """Stopped after 7 of 20 steps of each stage; deterministic algorithms, the same card."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = run(store, tmp_path / "whole", device)
        run(store, tmp_path / "parts", device, "train.rrdb_steps=7", "train.steps=0")
        run(store, tmp_path / "parts", device, "train.rrdb_steps=20", "train.steps=7")
        parts = run(store, tmp_path / "parts", device)
    finally:
        torch.use_deterministic_algorithms(False)
    ours, theirs = (load_checkpoint(path).tensors for path in (parts, whole))
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("setting", ["train.compile=true", "train.gradient_checkpointing=true"])
def test_options_change_no_loss(store, tmp_path, device, setting):
    """Compiled, or with activations computed again: the losses of the plain run, but for rounding."""
    run(store, tmp_path / "plain", device)
    run(store, tmp_path / "option", device, setting)
    np.testing.assert_allclose(losses(tmp_path / "option"), losses(tmp_path / "plain"), rtol=2e-3)


def test_inference_equals_the_cpu(store, tmp_path, device):
    """RRDB and diffusion within 1/255, whole and in tiles; bf16 within a few grey levels in the mean."""
    model = run(store, tmp_path / "r", device)
    ours, theirs = load_model(model, device), load_model(model, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
    for settings in ({"rrdb_only": True}, {"steps": 3, "seed": 1}, {"steps": 3, "seed": 1, "tile": 16, "overlap": 4}):
        a, b = (side.upscale(image, **settings).astype(int) for side in (ours, theirs))
        assert np.abs(a - b).max() <= 1, settings
    low = ours.upscale(image, steps=3, seed=1, amp="bf16").astype(int)
    assert np.abs(low - theirs.upscale(image, steps=3, seed=1).astype(int)).mean() < 4
