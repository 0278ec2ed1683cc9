"""Several processes, pieces of a batch, recomputed activations, reduced precision, every scale: the same training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from samdiff import open_store
from samdiff.errors import ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import load_config
from samdiff.model.inference.upscaler import load_model
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.training.distributed import ProcessGroup
from samdiff.model.training.run import train
from samdiff.model.training.state import states
from samdiff.model.training.tasks import DiffusionTask, RrdbTask
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.stores import make_store
from .test_train import SMALL

CPU = torch.device("cpu")
TWENTY = [*SMALL, "train.rrdb_steps=20", "train.steps=20", "train.log_every=1", "train.checkpoint_every=20"]
LOOKS = ["validate.every=10", "validate.tiles=1", "validate.steps=1"]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def run(tmp_path: Path, name: str, *more: str) -> Path:
    """One process, 20 + 20 steps of 4 samples out of 39 tiles (43 less four held out)."""
    store = tmp_path / "a.zarr"
    if not store.exists():
        make_store(store, n=43, masks=tuple([1] * 43))  # four of 43 images are held out
    train([open_store(store)], tmp_path / name, load_config("tiny", sets=[*TWENTY, *more]), CPU)
    return tmp_path / name


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_equal_one_with_their_batches_together(tmp_path, processes):
    """torchrun with gloo: losses of both stages within 1e-4 over 20 steps each; 43 tiles, which do not divide evenly, and validation on rank 0 do not block any rank."""
    alone = run(tmp_path, "one", *LOOKS)
    worker = Path(__file__).parents[2] / "helpers" / "ddp_worker.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(worker)]
    done = subprocess.run(
        [*command, str(tmp_path / "a.zarr"), str(tmp_path / "several"), *TWENTY, *LOOKS],
        capture_output=True,
        text=True,
        timeout=120 * processes,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = torch.tensor(losses(alone)), torch.tensor(losses(tmp_path / "several"))
    assert len(ours) == len(theirs) == 40
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=0)
    assert (tmp_path / "several" / "log.jsonl").read_text().count("held-out") == 4


@pytest.mark.parametrize("setting", ["train.accumulate=2", "train.gradient_checkpointing=true"])
def test_less_memory_the_same_losses(tmp_path, setting):
    ours, theirs = (torch.tensor(losses(run(tmp_path, name, *more))) for name, more in (("a", []), ("b", [setting])))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=0)


def test_gradient_checkpointing_keeps_less(tmp_path):
    """Bytes kept for the backward pass of a U-Net: less than half."""
    store = make_store(tmp_path / "a.zarr", n=43)
    kept = []
    for value in ("false", "true"):
        config = load_config("tiny", sets=[*SMALL, f"train.gradient_checkpointing={value}"])
        task = DiffusionTask(ShardDataset(store, 12), build_unet(config), build_rrdb(config), config, CPU)
        sizes: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
            lambda t: t,
        ):
            loss = task.loss(task.make_batch(0, 4))
        loss.backward()
        kept.append(sum(sizes.values()) - sum(p.nbytes for p in task.network.parameters()))
    assert kept[1] < 0.5 * kept[0]


def test_bf16_trains_and_its_states_resume_exactly(tmp_path):
    """Losses near fp32's; weights stay fp32; 20 steps equal 8 + 12 bit for bit with another number of loader threads."""
    plain, low = losses(run(tmp_path, "a")), losses(run(tmp_path, "b", "train.amp=bf16"))
    torch.testing.assert_close(torch.tensor(low), torch.tensor(plain), rtol=0.1, atol=0.02)
    run(tmp_path, "c", "train.amp=bf16", "train.steps=8", "train.workers=0")
    run(tmp_path, "c", "train.amp=bf16", "train.workers=4")
    whole, parts = (load_checkpoint(states(tmp_path / name, "diffusion")[-1]) for name in ("b", "c"))
    assert whole.facts["position"] == parts.facts["position"] == 80
    assert all(torch.equal(whole.tensors[name], parts.tensors[name]) for name in whole.tensors)
    assert whole.tensors["network.out.weight"].dtype == torch.float32


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_other_scales_train_and_enlarge(tmp_path, scale):
    """Both stages and an image; the checkpoint states its scale; a run or RRDB of another scale is an error."""
    patch = {2: 12, 3: 12, 8: 16}[scale]
    store = make_store(tmp_path / "s.zarr", n=43, scale=scale)
    config = load_config("tiny", sets=[*SMALL, f"train.patch={patch}"], scale=scale)
    model = load_model(train([open_store(store)], tmp_path / "r", config, CPU), CPU)
    assert model.scale == scale
    assert model.upscale(torch.zeros(5, 7, 3, dtype=torch.uint8).numpy(), steps=2).shape == (5 * scale, 7 * scale, 3)
    other = make_store(tmp_path / "o.zarr", n=43, scale=4)
    with pytest.raises(ConfigError, match=rf"scale: was {scale}, now 4"):
        train([open_store(other)], tmp_path / "r", load_config("tiny", sets=SMALL, scale=4), CPU)


def test_batches_that_cannot_be_cut(tmp_path):
    store = open_store(make_store(tmp_path / "a.zarr", n=43))
    for sets, match in (
        (["train.batch=5", "train.accumulate=2"], "multiple of 1 processes x 2"),
        (["train.batch=64"], "at most the 43 training tiles"),
        (["train.amp=fp16"], "fp16 needs CUDA"),
    ):
        with pytest.raises(ConfigError, match=match):
            train([store], tmp_path / "r", load_config("tiny", sets=[*SMALL, *sets]), CPU)
    with pytest.raises(ConfigError, match="multiple of 3 processes x 1"):
        ProcessGroup(CPU, 0, 3).local_batch(4, 1)


def test_emulated_bf16_is_told(tmp_path, monkeypatch, caplog):
    """A processor without bfloat16 takes several times as long as with float32: one warning, and the user's word counts."""
    store = open_store(make_store(tmp_path / "a.zarr", n=43))
    for has, warnings in ((True, 0), (False, 1)):
        caplog.clear()
        monkeypatch.setattr("samdiff.model.training.tasks.has_bf16", lambda device, has=has: has)
        sets = [*SMALL, "train.amp=bf16", "train.rrdb_steps=0", "train.steps=0", "validate.every=0"]
        train([store], tmp_path / str(has), load_config("tiny", sets=sets), CPU)
        assert [record.getMessage().startswith("train.amp=bf16") for record in caplog.records].count(True) == warnings


def test_frozen_features_may_be_kept_for_the_gradient(tmp_path):
    """Made in inference mode, joined outside: the condition's convolution gets a gradient, the RRDB none."""
    config = load_config("tiny", sets=SMALL)
    data = ShardDataset(make_store(tmp_path / "a.zarr", n=43), 12)
    task = DiffusionTask(data, build_unet(config), build_rrdb(config), config, CPU)
    task.loss(task.make_batch(0, 2)).backward()
    assert task.network.condition.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in task.rrdb.parameters())
    assert RrdbTask(data, build_rrdb(config), config, CPU).loss(task.make_batch(0, 2)).requires_grad


@pytest.mark.slow
def test_compiled_training_has_the_same_losses(tmp_path):
    """torch.compile around the trained network only: losses near eager's, names of the weights unchanged."""
    ours, theirs = (
        torch.tensor(losses(run(tmp_path, name, *more))) for name, more in (("a", []), ("b", ["train.compile=true"]))
    )
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=0)
    names = [load_checkpoint(tmp_path / name).tensors.keys() for name in ("a", "b")]
    assert names[0] == names[1]
