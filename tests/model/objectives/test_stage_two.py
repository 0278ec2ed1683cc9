"""Stage two with base rrdb: it starts from the RRDB's image, trains, resumes bit for bit, and has a second phase."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from samdiff import load_model, open_store
from samdiff.errors import ConfigError
from samdiff.model.checkpoints.format import load_checkpoint
from samdiff.model.config import LossConfig, load_config
from samdiff.model.networks.build import build_rrdb, build_unet
from samdiff.model.objectives.diversity import diversity
from samdiff.model.objectives.one_step import checkerboard, chosen, in_second_phase, one_step_loss
from samdiff.model.training import loop, tasks
from samdiff.model.training.run import train
from samdiff.model.training.state import states
from samdiff.model.training.tasks import DiffusionTask
from samdiff.pipeline.stream.dataset import ShardDataset

from ...helpers.models import FLOW, SMALL_RUN, write_model
from ...helpers.stores import make_store

CPU = torch.device("cpu")
SMALL = [*SMALL_RUN, "train.rrdb_steps=4", "train.steps=8", "train.seed=3"]
PERCEPTUAL = ("loss.perceptual=lpips", "loss.begin=0.5", "loss.share=0.5")


def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A distance that needs no weights."""
    return (a - b).square().mean(dim=(1, 2, 3))


def config(*more: str):
    return load_config("tiny", sets=[*SMALL, *more])


def run(tmp_path: Path, name: str, *more: str, start: Path | None = None) -> Path:
    store = tmp_path / "a.zarr"
    if not store.exists():
        make_store(store, n=40)
    return train([open_store(store)], tmp_path / name, config(*more), CPU, start=start)


def log_of(tmp_path: Path, name: str, key: str) -> list[dict]:
    lines = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == "diffusion" and key in line]


def task_of(tmp_path: Path, *more: str) -> DiffusionTask:
    store, settings = make_store(tmp_path / "t.zarr", n=43), config("diffusion.residual_scale=4", *more)
    data = ShardDataset([open_store(store)], settings.train.patch, settings.train.seed, 0)
    torch.manual_seed(0)
    return DiffusionTask(data, build_unet(settings), build_rrdb(settings), settings, CPU)


@pytest.mark.parametrize(
    "more",
    [
        FLOW,
        (*FLOW, "diffusion.flow_prediction=velocity", "diffusion.loss=l2"),
        ("diffusion.modulation=official", "diffusion.base=rrdb"),
        ("diffusion.modulation=joint", "diffusion.base=rrdb"),
    ],
)
def test_it_trains_and_falls(tmp_path, more):
    path = run(tmp_path, "r", *more, "train.steps=100", "train.lr=5e-3", "train.ema=0.9", "train.checkpoint_every=50")
    model = load_model(path, CPU)
    data = ShardDataset([open_store(tmp_path / "a.zarr")], 12, 3, 0)
    losses = []
    for trained in (False, True):
        torch.manual_seed(0)
        network = model.unet if trained else build_unet(model.config)
        task = DiffusionTask(data, network, model.rrdb, model.config, CPU)
        with torch.no_grad():
            losses.append(float(task.loss(task.make_batch(0, 64))))
    assert losses[1] < 0.97 * losses[0]
    saved = load_checkpoint(tmp_path / "r" / "model.safetensors", kind="diffusion").config["diffusion"]
    assert 1 <= saved["residual_scale"] <= 64
    assert json.loads((tmp_path / "r" / "config.json").read_text())["diffusion"]["residual_scale"] == 0  # as requested


def test_a_flow_begins_at_the_rrdb(tmp_path):
    """Without a step of stage two, one Euler step or several give the RRDB's image; `velocity` does in one."""
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    for prediction, steps in (("clean", (1, 4)), ("velocity", (1,))):
        model = load_model(run(tmp_path, prediction, *FLOW, f"diffusion.flow_prediction={prediction}", "train.steps=0"), CPU)
        for number in steps:
            np.testing.assert_array_equal(model.upscale(image, steps=number), model.regress(image))
    assert (model.upscale(image, steps=4) != model.regress(image)).any()


def test_resume_is_exact_through_both_phases(tmp_path, monkeypatch):
    """8 steps at once and 3 + 5, with the second phase from the fifth; the scale of residuals is the saved one, not measured again."""
    monkeypatch.setattr(tasks, "load_distance", lambda kind, device: squared)
    whole = run(tmp_path, "whole", *FLOW, *PERCEPTUAL)
    real, calls = loop.update, []

    def update(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 4 + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", update)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "parts", *FLOW, *PERCEPTUAL)
    assert [path.name for path in states(tmp_path / "parts", "diffusion")] == ["state-diffusion-00000003.safetensors"]
    monkeypatch.setattr("samdiff.model.training.run.measure_rescale", lambda *_, **__: pytest.fail("measured again"))
    part = run(tmp_path, "parts", *FLOW, *PERCEPTUAL)
    ours, theirs = (load_checkpoint(states(path.parent, "diffusion")[-1]) for path in (whole, part))
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    assert ours.config["diffusion"] == theirs.config["diffusion"]


def test_the_losses_may_change_in_a_run(tmp_path, monkeypatch):
    """A second phase can be added to a run; its process cannot be changed."""
    monkeypatch.setattr(tasks, "load_distance", lambda kind, device: squared)
    run(tmp_path, "r", *FLOW, "train.steps=3")
    run(tmp_path, "r", *FLOW, *PERCEPTUAL, "train.steps=6")
    with pytest.raises(ConfigError, match="diffusion.flow_sigma: was 0.5, now 0.3"):
        run(tmp_path, "r", *FLOW, "diffusion.flow_sigma=0.3")


def test_samples_of_the_second_phase():
    """By hand; and pieces of a batch choose what the batch chooses where the share of each piece is a whole number."""
    assert chosen(8, 0.5) == [0, 2, 4, 6]
    assert chosen(4, 0.25) == [0]
    assert chosen(3, 1) == [0, 1, 2]
    assert chosen(3, 0) == []
    assert chosen(1, 0.1) == [0]
    assert [4 * piece + index for piece in (0, 1) for index in chosen(4, 0.5)] == chosen(8, 0.5)
    loss = LossConfig(perceptual="lpips", begin=0.2)
    steps = [in_second_phase(step * 16 + 15, batch=16, steps=100, loss=loss) for step in range(100)]
    assert steps == [step >= 20 for step in range(100)]
    assert not in_second_phase(10**6, batch=16, steps=100, loss=LossConfig())


@pytest.mark.parametrize(
    "process", [FLOW, ("diffusion.modulation=joint",), ("diffusion.modulation=official", "diffusion.base=rrdb")]
)
def test_the_second_phase_adds_its_losses(tmp_path, monkeypatch, process):
    """The main loss plus the perceptual loss and L1 of the one-step images of the chosen samples, by an independent formula."""
    monkeypatch.setattr(tasks, "load_distance", lambda kind, device: squared)
    weights = ("loss.weight=3", "loss.pixel_weight=0.7", "loss.checkerboard=0.01")
    task = task_of(tmp_path, *process, *PERCEPTUAL, *weights)
    torch.nn.init.normal_(task.network.out.weight, std=0.1)
    assert "one_step" not in task.make_batch(12, 4)  # step 3 of 8
    batch = task.make_batch(16, 4)
    assert batch["one_step"].tolist() == [True, False, True, False]
    assert batch["t"][[0, 2]].tolist() == [task.process.one_step_time] * 2
    whole = task.loss(batch)
    main = task.loss({name: value for name, value in batch.items() if name != "one_step"})
    hr, lr = task.images(batch)
    with torch.no_grad():
        given, base = task.given(lr)
        e = tasks.e_sam(batch["labels"], batch["image"], task.table, task.offset) if task.modulation.needs_masks else None
        x = task.process.q_sample(task.process.residual(hr, base), e, batch["t"], batch["noise"])
        image = task.process.image(task.process.clean(x, task.network(x, batch["t"], given), batch["t"]), base)
        detail = (image - base)[[0, 2]].numpy()
        phases = [detail[:, :, row::4, column::4].mean(axis=(2, 3)) for row in range(4) for column in range(4)]
    added = 3 * squared(image, hr)[[0, 2]].mean() + 0.7 * (image - hr).abs()[[0, 2]].mean()
    added += 0.01 * 127.5**2 * np.var(phases, axis=0).mean()
    assert float(added) > 0.001
    assert float((whole - main).detach()) == pytest.approx(float(added), rel=1e-4)
    whole.backward()
    assert all(torch.isfinite(p.grad).all() for p in task.network.parameters() if p.grad is not None)


def test_the_rrdb_runs_once_per_step(tmp_path):
    """Base and condition come from one pass; nothing of it is kept for a gradient."""
    task = task_of(tmp_path, *FLOW)
    calls, features = [], task.rrdb.features
    task.rrdb.features = lambda lr: calls.append(torch.is_inference_mode_enabled()) or features(lr)
    task.loss(task.make_batch(0, 4)).backward()
    assert calls == [True]
    assert all(parameter.grad is None for parameter in task.rrdb.parameters())


def test_pieces_and_precision(tmp_path, monkeypatch):
    """Gradient accumulation gives the losses of the whole batch, in both phases; bf16 stays near."""
    monkeypatch.setattr(tasks, "load_distance", lambda kind, device: squared)
    result = {}
    for name, more in {"a": [], "b": ["train.accumulate=2"], "c": ["train.amp=bf16"]}.items():
        run(tmp_path, name, *FLOW, *PERCEPTUAL, "diffusion.residual_scale=4", *more)
        result[name] = torch.tensor([line["loss"] for line in log_of(tmp_path, name, "loss")])
    torch.testing.assert_close(result["b"], result["a"], rtol=1e-4, atol=0)
    torch.testing.assert_close(result["c"], result["a"], rtol=0.1, atol=0.02)


def test_a_collapse_is_seen(tmp_path):
    """Validation logs what the model adds and how it differs from seed to seed; both are 0 for a flow that never trained."""
    make_store(tmp_path / "a.zarr", n=40, masks=(1,) * 40)
    run(tmp_path, "r", *FLOW, "train.steps=4", "validate.every=2", "validate.images=4", "validate.tiles=2")
    lines = log_of(tmp_path, "r", "validation")
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["residual_rms_hr"] > 0
        assert (line["sampler"], line["sampling_steps"]) == ("euler", 1)
        assert {"residual_rms", "seed_rms"} <= line.keys()
    base, hr = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 110, np.uint8)
    result = diversity([(base, hr)], lambda lr: lr, lambda lr, seed: lr + np.uint8(3 + 4 * seed))
    assert result == {"residual_rms": 3, "residual_rms_hr": 10, "seed_rms": pytest.approx(2.828, abs=1e-3)}
    assert diversity([(base, hr)], lambda lr: lr, lambda lr, seed: lr)["seed_rms"] == 0


def test_a_perceptual_run_keeps_its_newest_model_and_its_metrics(tmp_path, monkeypatch):
    """PSNR falls with a perceptual loss, so there is no best.safetensors; model.safetensors holds the last validation, also after a resume."""
    monkeypatch.setattr(tasks, "load_distance", lambda kind, device: squared)
    make_store(tmp_path / "a.zarr", n=40, masks=(1,) * 40)
    words = [*FLOW, *PERCEPTUAL, "validate.every=2", "validate.images=4", "validate.tiles=2", "train.checkpoint_every=1"]
    run(tmp_path, "r", *words, "validate.sampler=euler", "validate.steps=2", "train.steps=2")
    (line,) = log_of(tmp_path, "r", "validation")
    assert (line["sampler"], line["sampling_steps"]) == ("euler", 2)
    model = run(tmp_path, "r", *words, "validate.sampler=euler", "validate.steps=2", "train.steps=3", "validate.every=0")
    assert not (tmp_path / "r" / "best.safetensors").exists()
    facts = load_checkpoint(model).facts
    assert (facts["step"], facts["validation"]["step"], facts["validation"]["psnr_y"]) == (3, 2, line["psnr_y"])


def test_a_start_of_another_process(tmp_path):
    """All of the U-Net of a diffusion is used except for its last layer, so a flow still starts from the RRDB's image."""
    start = run(tmp_path, "ddpm", "diffusion.modulation=none")
    model = load_model(run(tmp_path, "r", *FLOW, "train.steps=0", "train.rrdb_steps=0", start=start), CPU)
    theirs = load_checkpoint(start).part("unet")
    assert torch.equal(model.unet.state_dict()["final.conv.weight"], theirs["final.conv.weight"])
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    np.testing.assert_array_equal(model.upscale(image, steps=2), model.regress(image))


@pytest.mark.parametrize("more", [FLOW, ("diffusion.base=rrdb", "diffusion.modulation=none")])
def test_inference_from_the_rrdb(tmp_path, more):
    """Seeds, means, tiles, kinds of images and the start from the RRDB."""
    model = load_model(write_model(tmp_path / "m.safetensors", *more, "diffusion.residual_scale=4"), CPU)
    torch.nn.init.normal_(model.unet.out.weight, std=3.0, generator=torch.Generator().manual_seed(0))
    rows, columns = np.mgrid[0:64, 0:56] / 10
    image = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=2).astype(np.float32) / 4 + 0.5
    whole = model.upscale(image, steps=2, tile=0)
    tiled = model.upscale(image, steps=2, tile=36)
    assert np.abs(tiled - whole).mean() <= 0.5 / 255
    for changes in ({"batch": 5}, {"cache_mb": 0}):
        np.testing.assert_allclose(model.upscale(image, steps=2, tile=36, **changes), tiled, atol=1e-4)
    assert np.abs(model.upscale(image, steps=2, tile=0, seed=1) - whole).max() > 0.005
    np.testing.assert_array_equal(model.upscale(image, steps=2, tile=0), whole)
    small = image[:9, :7]
    seeds = [model.upscale(small, steps=1, average=number) for number in (1, 4)]
    rrdb = model.regress(small)
    assert np.abs(seeds[1] - seeds[0]).max() > 0
    assert model.upscale((small * 255).astype(np.uint8)[..., 0], steps=1).shape == (36, 28)
    if "diffusion.process=flow" in more:
        with pytest.raises(ConfigError, match="always starts from the RRDB's image"):
            model.upscale(small, start="rrdb")
        with pytest.raises(ConfigError, match="whose only sampler is 'euler'"):
            model.upscale(small, sampler="ddim")
        full, half, none = (model.upscale(small, steps=1, realism=realism) for realism in (1.0, 0.5, 0.0))
        np.testing.assert_allclose(none, rrdb, atol=1e-6)
        with pytest.raises(ConfigError, match="realism: has no effect on the RRDB's result"):
            model.upscale(small, realism=0.5, rrdb_only=True)
        inside = (full > 0) & (full < 1)
        np.testing.assert_allclose(half[inside], (full + none)[inside] / 2, atol=1e-5)
    else:
        near, far = (np.abs(model.upscale(small, start="rrdb", start_time=t) - rrdb).mean() for t in (0, 90))
        assert near < far


def test_checkerboard_by_hand():
    """The variance of the phases' means, in squared levels; patterns of other periods, slow changes and a shift of brightness do not count."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(3, 4, 4))
    image = np.tile(pattern, (1, 8, 6))[None] / 127.5
    expected = np.mean([np.var(channel) for channel in pattern])
    assert float(checkerboard(torch.from_numpy(image), 4)) == pytest.approx(expected, rel=1e-9)
    assert float(checkerboard(torch.from_numpy(image + 0.3), 4)) == pytest.approx(expected, rel=1e-9)
    pieces = [image[0, :, row::4, column::4].mean(axis=(1, 2)) for row in range(4) for column in range(4)]
    assert np.var(pieces, axis=0).mean() * 127.5**2 == pytest.approx(expected, rel=1e-9)
    blocks = np.kron(rng.normal(size=(8, 6)), np.ones((4, 4)))[None, None].repeat(3, axis=1)
    assert float(checkerboard(torch.from_numpy(blocks), 4)) < 1e-20


def test_one_step_loss_by_hand():
    a, b = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert float(one_step_loss(a, b, squared, LossConfig(weight=2, pixel_weight=0.5))) == 2.5
