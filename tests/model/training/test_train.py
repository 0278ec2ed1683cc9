"""Training: falls, resumes to the same weights, refuses what does not fit, loses nothing when a step or a disk fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import open_store
from samdiff.errors import CheckpointError, ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import load_config
from samdiff.model.inference.image_io import save_image
from samdiff.model.inference.upscaler import load_model
from samdiff.model.networks.build import build_rrdb
from samdiff.model.training import loop
from samdiff.model.training import optimizer as optim
from samdiff.model.training.cost_estimate import measure
from samdiff.model.training.loop import TrainingError
from samdiff.model.training.run import train
from samdiff.model.training.state import states
from samdiff.model.training.tasks import RrdbTask
from samdiff.model.training.validation import held_out, read_benchmark, score
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.models import SMALL_RUN
from ...helpers.stores import make_store

CPU = torch.device("cpu")
SMALL = [*SMALL_RUN, "train.rrdb_steps=6", "train.steps=8"]


def config(*more: str):
    return load_config("tiny", sets=[*SMALL, *more])


def run(tmp_path: Path, name: str, *more: str, rrdb: Path | None = None, start: Path | None = None) -> Path:
    store = tmp_path / "a.zarr"
    if not store.exists():
        make_store(store, n=40)
    return train([open_store(store)], tmp_path / name, config(*more), CPU, rrdb, start=start)


@pytest.mark.parametrize("modulation", ["none", "official", "paper", "joint"])
def test_every_modulation_trains_and_falls(tmp_path, modulation):
    """120 steps on one store: the loss at the end is well below that at the start; everything is finite."""
    more = (
        f"diffusion.modulation={modulation}",
        "train.steps=120",
        "train.log_every=10",
        "train.lr=5e-3",
        "diffusion.e_mean=image",
    )
    model = run(tmp_path, "r", *more)
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "diffusion"]
    assert len(losses) == 12
    assert sum(losses[-3:]) / 3 < 0.93 * losses[0]
    tensors = load_checkpoint(model, kind="diffusion").tensors
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_resume_equals_an_uninterrupted_run(tmp_path):
    """8 steps at once and 3 + 5 steps in two calls give the same weights, average and optimiser, bit for bit on the CPU."""
    whole = run(tmp_path, "whole", "train.steps=8")
    run(tmp_path, "parts", "train.steps=3")
    part = run(tmp_path, "parts", "train.steps=8")
    pair = [states(path.parent, "diffusion")[-1] for path in (whole, part)]
    ours, theirs = (load_checkpoint(path).tensors for path in pair)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("adam.exp_avg_sq.") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_killed_and_run_again(tmp_path):
    """60 steps = 20 + kill -9 + resume + 40, bit for bit: weights, average, optimiser, counters, position; other loader threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another number of threads would split sums differently
    try:
        whole = run(tmp_path, "whole", "train.steps=60", "train.checkpoint_every=20")
    finally:
        torch.set_num_threads(threads)
    sets = [*SMALL, "train.steps=60", "train.checkpoint_every=20", "train.workers=4"]
    command = [
        sys.executable,
        "-m",
        "samdiff.cli",
        "train",
        "--shards",
        str(tmp_path / "a.zarr"),
        "--out",
        str(tmp_path / "killed"),
    ]
    command += ["--preset", "tiny", "--device", "cpu", "--threads", "1", *(f"--set={text}" for text in sets)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not states(tmp_path / "killed", "diffusion"):
            assert process.poll() is None, "it ended before it could be killed"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    reported = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "rrdb: already finished, 6 steps; " in reported
    pair = [load_checkpoint(states(folder, "diffusion")[-1]) for folder in (whole.parent, tmp_path / "killed")]
    ours, theirs = (checkpoint.tensors for checkpoint in pair)
    assert {name.split(".")[0] for name in ours} == {"network", "ema", "adam", "guard"}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [checkpoint.facts["position"] for checkpoint in pair] == [240, 240]
    again = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "already finished, 60 steps; nothing to do" in again


def test_sigterm_saves_first(tmp_path, monkeypatch):
    """On a request to stop, the loop finishes its step, saves and raises KeyboardInterrupt."""
    real = loop.update

    def update(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    monkeypatch.setattr(loop, "update", update)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "r", "train.rrdb_steps=50")
    saved = states(tmp_path / "r", "rrdb")
    assert [load_checkpoint(path).facts["step"] for path in saved] == [1]


def test_a_finished_run_does_nothing(tmp_path):
    """The same command again leaves every file as it is but the configuration's and the lock."""

    def times() -> dict[str, int]:
        return {
            path.name: path.stat().st_mtime_ns for path in model.parent.iterdir() if path.name not in ("config.json", "lock")
        }

    model = run(tmp_path, "r")
    before = times()
    run(tmp_path, "r")
    assert before == times()
    assert len(states(model.parent, "diffusion")) == 2  # the last `keep`


def test_rrdb_from_another_run_is_frozen(tmp_path):
    """--rrdb skips stage one; the weights arrive unchanged in the model; a wrong scale or size is refused."""
    first = run(tmp_path, "first")
    second = run(tmp_path, "second", rrdb=first)
    ours, theirs = load_checkpoint(first).part("rrdb"), load_checkpoint(second).part("rrdb")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not states(tmp_path / "second", "rrdb")
    with pytest.raises(CheckpointError, match="do not fit the configured network: .*of another shape"):
        run(tmp_path, "third", "model.rrdb_features=16", rrdb=first)
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        run(tmp_path, "fourth", rrdb=tmp_path / "none.safetensors")
    for name in ("third", "fourth"):  # so that the corrected command may use it
        assert not (tmp_path / name).exists()


def test_start_from_a_model(tmp_path):
    """--start: without a step both networks are the given ones; another scale, size or kind is refused, and so is another start."""
    given = run(tmp_path, "given", "train.ema=0")
    begun = run(tmp_path, "begun", "train.rrdb_steps=0", "train.steps=0", "train.ema=0", start=given)
    before, after = load_checkpoint(given).tensors, load_checkpoint(begun).tensors
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(CheckpointError, match="expected a checkpoint of kind 'diffusion', got 'rrdb'"):
        run(tmp_path, "b", start=tmp_path / "given" / "rrdb.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the configured network"):
        run(tmp_path, "c", "model.width=16", start=given)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ConfigError, match="start_from"):
        run(tmp_path, "begun", "train.rrdb_steps=0", "train.steps=0", "train.ema=0")
    make_store(tmp_path / "two.zarr", n=40, scale=2)
    with pytest.raises(CheckpointError, match="trained for x4, the store is x2"):
        train([open_store(tmp_path / "two.zarr")], tmp_path / "d", load_config("tiny", sets=SMALL, scale=2), CPU, start=given)


def test_the_estimate_comes_before_the_first_step(tmp_path):
    """Parameters exactly, memory and time of the stage; measuring changes no weight."""
    reported: list[str] = []
    store = open_store(make_store(tmp_path / "a.zarr", n=40))
    train([store], tmp_path / "r", config("validate.every=0"), CPU, report=reported.append)
    count = sum(value.numel() for value in load_checkpoint(tmp_path / "r" / "rrdb.safetensors").tensors.values())
    assert reported[0].startswith(f"rrdb: {count / 1e6:.2f} M parameters on cpu; about ")
    assert "activations of 4 samples" in reported[0]
    assert "for 6 steps of 4" in reported[0]
    task = RrdbTask(ShardDataset(store, 12), build_rrdb(config()), config(), CPU)
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    one, two = (measure(task.network, task.loss, task.make_batch(0, n), CPU) for n in (1, 2))
    assert 1.8 * one.per_sample < two.per_sample < 2.2 * one.per_sample
    assert all(torch.equal(value, before[name]) for name, value in task.network.state_dict().items())
    assert all(parameter.grad is None for parameter in task.network.parameters())


def test_validation_holds_photographs_out_and_keeps_the_best(tmp_path):
    """Held-out tiles are never trained on; every metric in the log; the best model is that of the highest PSNR; benchmarks too."""
    masks = tuple([1] * 40)
    store = open_store(make_store(tmp_path / "v.zarr", n=40, masks=masks))
    (tmp_path / "bench").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (41, 50, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "bench" / "a.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "bench" / "grey.png")
    more = ["validate.every=3", "validate.images=9", "validate.steps=4", "validate.tiles=3", "train.tensorboard=true"]
    bench = read_benchmark(tmp_path / "bench", 4)
    assert [hr.shape for _, hr in bench.pairs] == [(40, 48, 3), (40, 48)]
    for name, pixels in (("HR/a.png", image), ("LRx4/b.png", image[:10, :12])):
        save_image(pixels, tmp_path / "lone" / name)
    with pytest.raises(ConfigError, match="has no LR for a.png"):
        read_benchmark(tmp_path / "lone", 4)
    train([store], tmp_path / "r", config(*more), CPU, benchmarks=[bench])
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "validation" in line and line["stage"] == "diffusion"]
    assert [(line["step"], line["validation"]) for line in validations] == [
        (n, v) for n in (3, 6, 8) for v in ("held-out", "bench")
    ]
    assert all(
        line["pictures"] == (3 if line["validation"] == "held-out" else 2) and line["sampling_steps"] == 4
        for line in validations
    )
    best = max((line for line in validations if line["validation"] == "held-out"), key=lambda line: line["psnr_y"])
    kept = load_checkpoint(tmp_path / "r" / "best.safetensors", kind="diffusion")
    assert (kept.facts["step"], kept.facts["validation"]["psnr_y"]) == (best["step"], best["psnr_y"])
    resolver = load_model(tmp_path / "r", CPU)
    own = held_out([store], 9, 3)
    assert own is not None
    expected = score(own, lambda lr, n: resolver.upscale(lr, steps=4, seed=n))[0]["psnr_y"]
    assert validations[-2]["psnr_y"] == pytest.approx(expected, abs=1e-3)
    assert any((tmp_path / "r" / "tensorboard").iterdir())
    data = ShardDataset([store], 12, hold_out=9)
    assert len(data) == 36  # a tenth of 40 images is held out
    assert set(data.batch(0, 72)["image"]) == set(range(36))


def test_not_finite_steps_are_skipped_and_ten_stop_the_run(tmp_path, monkeypatch):
    """One step with a NaN changes nothing and is counted; ten in a row are an error that keeps the last state."""
    real, calls = loop._backward, [0]

    def sometimes(task, *arguments, **keywords):
        calls[0] += 1
        loss = real(task, *arguments, **keywords)
        if calls[0] == 2 or calls[0] > 14:
            next(task.network.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(loop, "_backward", sometimes)
    run(tmp_path, "r", "train.steps=0")
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines if line["stage"] == "rrdb"] == [1, 1, 1]
    calls[0] = 10
    with pytest.raises(TrainingError, match="not finite in 10 consecutive steps"):
        run(tmp_path, "s", "train.rrdb_steps=40")
    assert [load_checkpoint(path).facts["step"] for path in states(tmp_path / "s", "rrdb")] == [9, 12]


def test_a_left_out_step_leaves_everything_as_it_was():
    """Weights, moments and step count of the fused optimiser stay; the scale of the loss halves, the row is counted."""
    torch.manual_seed(0)
    network, settings = torch.nn.Linear(3, 2), config("train.amp=fp16").train
    optimiser, guard = optim.make_optimiser(network, settings), optim.Guard.new("fp16", CPU)
    for bad in (False, True, True, False):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        loss = network(torch.ones(1, 3)).square().mean()
        (loss * guard.scale).backward()
        if bad:
            network.weight.grad[0, 0] = float("inf")
        assert bool(optim.update(optimiser, guard, loss.detach(), settings)) is bad
        optimiser.zero_grad()
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()) is bad
    assert [float(v) for v in (guard.skipped, guard.row, guard.longest, guard.scale)] == [2, 0, 2, 65536 / 4]
    assert float(optimiser.state[network.weight]["step"]) == 2


def test_masks_that_are_needed_and_missing(tmp_path):
    """A store without masks trains `none` only."""
    make_store(tmp_path / "a.zarr", n=40, masks=(0, 0))
    with pytest.raises(ConfigError, match="'official' needs masks, and .*a.zarr has none"):
        run(tmp_path, "r")
    run(tmp_path, "s", "diffusion.modulation=none")
