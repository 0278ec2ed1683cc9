"""Training: stage one pretrains the RRDB, stage two the diffusion model on its frozen features.

A run is a folder: `config.json` (everything resolved), `log.jsonl`, `state-…` files to resume from, `rrdb.safetensors` after stage one,
`model.safetensors` (averaged weights of both networks, all that inference needs) and `best.safetensors`, the best of them by PSNR.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import CheckpointError, ConfigError
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import ShardDataset
from ...pipeline.stream.order import mix
from ...pipeline.stream.random_streams import Stream
from ...runtime import has_bf16
from ..checkpoints.format import (
    BEST_FILE,
    MODEL_FILE,
    RRDB_FILE,
    Checkpoint,
    load_checkpoint,
    load_into,
    save_checkpoint,
    way_out,
    weights_digest,
)
from ..checkpoints.initial import check_given, load_rrdb, of_scale
from ..config import RunConfig
from ..diffusion.residual import to_picture_range, to_pixels
from ..diffusion.sampler import DEFAULT, check_pair
from ..inference.upscaler import SuperResolver
from ..networks.build import build_rrdb, build_unet
from ..networks.rrdb import RRDB
from .cost_estimate import Pace, expected_pace, measure
from .distributed import ProcessGroup
from .logger import Tracker
from .loop import Stage, run
from .run_dir import acquire_run_dir, asked_of, versions
from .state import State, steps_done
from .tasks import DiffusionTask, RrdbTask
from .validation import Benchmark, Upscale, held_out, score

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """What both stages need."""

    data: ShardDataset
    out: Path
    config: RunConfig
    ranks: ProcessGroup
    saved: dict[str, Any]
    facts: dict[str, Any]
    tracker: Tracker
    benchmarks: tuple[Benchmark, ...]
    report: Callable[[str], None]
    start: Checkpoint | None
    pace: Pace


def train(
    stores: Sequence[Store],
    out: Path,
    config: RunConfig,
    device: torch.device,
    rrdb: Path | None = None,
    report: Callable[[str], None] = log.info,
    benchmarks: Sequence[Benchmark] = (),
    ranks: ProcessGroup | None = None,
    start: Path | None = None,
) -> Path:
    """Train both stages into a run's folder, or go on with it; returns the model's file.

    Args:
        stores: opened stores of the configuration's scale.
        out: the run's folder.
        config: every setting.
        device: to train on.
        rrdb: a checkpoint whose RRDB is taken in place of stage one.
        report: gets what happens, one line each.
        benchmarks: scored whole at each validation, beside the held-out tiles; see `validate.read_benchmark`.
        ranks: the processes of `torchrun`, see `parallel.join`; None: this one alone.
        start: a model whose weights both stages begin from (fine-tuning), `shipped` for the one that comes with samdiff; None: random weights.

    Raises:
        ConfigError: patch or batch do not fit, the folder holds a run of other settings, or masks are needed and missing.
        BusyError: another process trains into the folder.
        CheckpointError: `rrdb` or `start` does not fit, or a file cannot be written.
        KeyboardInterrupt: asked to stop; the state is saved.
    """
    ranks = ranks or ProcessGroup(device)
    data = ShardDataset(stores, config.train.patch, config.train.seed, config.validate.images)
    _check(config, stores, data, ranks)
    speak = report if ranks.is_main else log.debug
    beginning = None if start is None else of_scale(start, config, "diffusion")
    check_given(config, rrdb, beginning)
    asked = asked_of(config, stores, rrdb, start)
    # on every rank, so that all of them know when rank 0 will look
    own = held_out(stores, config.validate.images, config.validate.tiles) if config.validate.every else None
    every = tuple(benchmarks) if own is None else (own, *benchmarks)
    facts = {"stores": asked["stores"], "version": __version__, "versions": versions()}
    with ExitStack() as held:
        for line in ranks.one_for_all(lambda: acquire_run_dir(out, asked, held)):
            speak(line)
        if config.validate.every and not every:
            most = f"validate.images={config.validate.images}, at most a tenth of them"
            speak(f"no validation: no photograph is held out ({most}), and there is no --benchmark")
        tracker = Tracker(out, config.train.tensorboard and ranks.is_main)
        scored = every if config.validate.every else ()
        pace = Pace()  # rank 0 alone reports
        if ranks.is_main:
            images = [hr for benchmark in scored for _, hr in benchmark.pairs]
            steps = _looked_at_by(config)[1] or config.diffusion.timesteps
            has_rrdb = rrdb is not None or (out / RRDB_FILE).exists() and not steps_done(out, "rrdb")
            pace = expected_pace(
                data, out, config, ranks=ranks, images=images, sampling_steps=steps, has_rrdb=has_rrdb, report=speak
            )
        this = _Run(data, out, config, ranks, asked, facts, tracker, scored, speak, beginning, pace)
        first = _rrdb_stage(this, rrdb)
        torch.manual_seed(int(mix(config.train.seed, Stream.WEIGHTS, 2)) >> 1)
        _diffusion_stage(this, build_unet(config), first)
    return out / MODEL_FILE


def _diffusion_stage(this: _Run, unet: torch.nn.Module, rrdb: RRDB) -> None:
    if this.start is not None:
        load_into(unet, this.start.part("unet"), "--start")
    task = DiffusionTask(this.data, unet, rrdb, this.config, this.ranks.device)  # type: ignore[arg-type]
    frozen = {f"rrdb.{name}": value for name, value in rrdb.state_dict().items()}

    def model(state: State) -> Checkpoint:
        averaged = {f"unet.{name}": value for name, value in state.ema.items()}
        return Checkpoint("diffusion", {**averaged, **frozen}, this.saved, {**this.facts, "step": state.step})

    def upscaler(state: State) -> Upscale:
        resolver = SuperResolver(model(state), "the averaged weights", this.ranks.device)
        sampler, steps = _looked_at_by(this.config)
        return lambda lr, number: resolver.upscale(lr, steps=steps, seed=number, sampler=sampler)

    beneath = weights_digest({name: value.cpu() for name, value in rrdb.state_dict().items()})
    _stage(this, task, this.config.train.steps, model, upscaler, MODEL_FILE, BEST_FILE, beneath)


def _rrdb_stage(this: _Run, given: Path | None) -> RRDB:
    """The trained RRDB: from a file, from this run's finished stage one, or by training it now."""
    torch.manual_seed(int(mix(this.config.train.seed, Stream.WEIGHTS, 1)) >> 1)
    network, looker = build_rrdb(this.config), build_rrdb(this.config)
    finished, steps = given or this.out / RRDB_FILE, this.config.train.rrdb_steps

    def model(state: State) -> Checkpoint:
        tensors = {f"rrdb.{name}": value for name, value in state.ema.items()}
        return Checkpoint("rrdb", tensors, this.saved, {**this.facts, "step": state.step})

    def upscaler(state: State) -> Upscale:
        looker.load_state_dict(state.ema)
        looker.to(this.ranks.device)
        return lambda lr, _: _regress(looker, lr, this.ranks.device)

    begun = steps_done(this.out, "diffusion") > 0  # then its condition must not change any more
    if given is None and begun:
        _restore_rrdb(this, finished)
    done = _steps_of(finished) if given is None and finished.exists() else None
    if given is not None:
        this.report(f"rrdb: taken from {finished}, in place of stage one")
    elif done is not None and (begun or done >= steps):
        late = f"; the {steps} asked for come too late, stage two has begun on its features" if done < steps else ""
        this.report(f"rrdb: finished before, {done} steps{late}; {finished}")
    else:
        if this.start is not None:
            load_into(network, this.start.part("rrdb"), "--start")
        task = RrdbTask(this.data, network, this.config, this.ranks.device)
        _stage(this, task, steps, model, upscaler, RRDB_FILE, None)
    return load_rrdb(network, finished, this.config).to(this.ranks.device)


def _restore_rrdb(this: _Run, file: Path) -> None:
    """Stage two has begun: a lost RRDB comes out of the model, which holds the one that it was trained on. On rank 0, while all wait."""

    def restore() -> str:
        if file.exists():
            return ""
        model = this.out / MODEL_FILE
        if not model.exists():
            raise CheckpointError(
                f"{file}: missing, and stage two has begun on its features; restore it, or begin again with another --out"
            )
        tensors = {f"rrdb.{name}": value for name, value in load_checkpoint(model, "diffusion").part("rrdb").items()}
        facts = {**this.facts, "step": steps_done(this.out, "rrdb")}
        save_checkpoint(file, Checkpoint("rrdb", tensors, this.saved, facts))
        return f"{file}: was missing, restored from {MODEL_FILE}"

    line = this.ranks.one_for_all(restore)
    if line:
        this.report(line)


def _steps_of(file: Path) -> int:
    step = load_checkpoint(file).facts.get("step")
    if step is None:
        raise CheckpointError(f"{file}: does not say how many steps it was trained for; {way_out(file)}")
    return int(step)


def _stage(
    this: _Run,
    task: RrdbTask | DiffusionTask,
    steps: int,
    model: Callable[[State], Checkpoint],
    upscaler: Callable[[State], Upscale],
    file: str,
    best: str | None,
    beneath: str | None = None,
) -> None:
    """Estimate, train, report. `file` is written at each checkpoint (the RRDB's at the end only), `best` at the best validation."""
    settings, v, ranks = this.config.train, this.config.validate, this.ranks
    option = "--rrdb-steps" if task.name == "rrdb" else "--steps"

    def publish(state: State) -> None:
        if task.name == "diffusion" or state.step >= steps:
            save_checkpoint(this.out / file, model(state))

    def validate(state: State) -> None:
        for number, benchmark in enumerate(this.benchmarks):
            metrics, sheet = score(benchmark, upscaler(state))
            how = {"sampler": v.sampler or "default", "sampling_steps": v.steps} if task.name == "diffusion" else {}
            this.tracker.metrics({"stage": task.name, "step": state.step, **metrics, **how})
            this.tracker.picture(f"{task.name}/{benchmark.name}", sheet, state.step)
            this.report(
                f"{task.name} {state.step}: {benchmark.name} {metrics['psnr_y']:.2f} dB (bicubic {metrics['bicubic_psnr_y']:.2f})"
            )
            if number == 0 and (state.best is None or metrics["psnr_y"] > state.best):
                state.best = metrics["psnr_y"]
                if best is not None:
                    found = model(state)
                    save_checkpoint(
                        this.out / best,
                        Checkpoint(found.kind, found.tensors, found.config, {**found.facts, "validation": metrics}),
                    )

    share = ranks.local_batch(settings.batch, settings.accumulate)
    if ranks.is_main and task.name in this.pace.parts:
        memory = measure(task.network, task.loss, task.make_batch(0, 1), ranks.device)
        line = memory.line(task.name, at_once=share // settings.accumulate, ranks=ranks.world, device=ranks.device)
        this.report(f"{line}, {this.pace.line(task.name, settings.batch)}")
    every = v.every if this.benchmarks else 0
    stage = Stage(settings, steps, this.out, this.saved, this.tracker, publish, validate, every, beneath, this.pace)
    state, done = run(task, stage, ranks)
    if not done and ranks.is_main and (steps == 0 or not (this.out / file).exists()):
        publish(state)
    ranks.wait()
    if done:
        this.report(
            f"{task.name}: {done} steps done, {state.step} in all, {int(state.guard.skipped)} left out; {this.out / file}"
        )
    elif state.step:
        this.report(f"{task.name}: finished before, {state.step} steps; nothing to do (more with {option} N)")
    else:
        whose = "random" if this.start is None else "--start's"
        this.report(f"{task.name}: no step asked for ({option} 0), {whose} weights as they are; {this.out / file}")


@torch.inference_mode()
def _regress(network: RRDB, lr: Any, device: torch.device) -> Any:
    grey, own = lr.ndim == 2, torch.tensor(lr)  # a copy: pictures from files are read-only
    rgb = own[..., None].expand(-1, -1, 3) if grey else own
    out = to_pixels(network(to_picture_range(rgb[None]).to(device)))[0].cpu().numpy()
    return out[..., 1] if grey else out


def _looked_at_by(config: RunConfig) -> tuple[str, int | None]:
    """Sampler and steps of the validation."""
    v, modulation = config.validate, config.diffusion.modulation
    return v.sampler or DEFAULT[modulation], None if modulation == "paper" else min(v.steps, config.diffusion.timesteps) or None


def _check(config: RunConfig, stores: Sequence[Store], data: ShardDataset, ranks: ProcessGroup) -> None:
    multiple = 2 ** (len(config.model.multipliers) - 1)
    if config.train.patch % multiple or config.train.patch < 2 * multiple:
        raise ConfigError(
            f"train.patch: expected a multiple of {multiple} (the U-Net's coarsest pixel) from {2 * multiple}, got {config.train.patch}"
        )
    if config.train.batch > len(data):
        raise ConfigError(
            f"train.batch: expected at most the {len(data)} tiles that there are to train on, got {config.train.batch}; "
            "prepare more pictures, or take a smaller batch"
        )
    ranks.local_batch(config.train.batch, config.train.accumulate)
    check_pair(config.diffusion.build(), *_looked_at_by(config))
    if config.train.amp == "fp16" and ranks.device.type == "cpu":
        raise ConfigError("train.amp: fp16 is for CUDA, the device is the CPU; use bf16 or off")
    if config.train.amp == "bf16" and not has_bf16(ranks.device):
        log.warning(
            "train.amp=bf16: this device has no instructions for bfloat16 and emulates them, several times slower than train.amp=off"
        )
    bare = [str(store.place) for store in stores if store.n_masks == 0]
    if bare and config.diffusion.modulation != "none":
        raise ConfigError(
            f"modulation {config.diffusion.modulation!r} needs masks, and {bare[0]} has none; prepare it with a segmenter, or use --modulation none"
        )
