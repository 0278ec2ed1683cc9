"""Training: stage one pretrains the RRDB, stage two the diffusion model on its frozen features.

A run is a folder: `config.json` (all settings), `log.jsonl`, `state-…` files to resume from, `rrdb.safetensors` after stage one,
`model.safetensors` (EMA weights of both networks, all that inference needs) and `best.safetensors`, the one with the best PSNR, which is
not written with a perceptual loss: PSNR falls as that loss does its work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ... import __version__
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import ShardDataset
from ...pipeline.stream.order import mix
from ...pipeline.stream.random_streams import Stream
from ..checkpoints.format import (
    BEST_FILE,
    MODEL_FILE,
    RRDB_FILE,
    Checkpoint,
    load_checkpoint,
    load_into,
    save_checkpoint,
    weights_digest,
)
from ..checkpoints.initial import check_given, load_rrdb, of_scale, restore_rrdb, steps_of, validation_in, with_validation
from ..config import RunConfig, config_of
from ..diffusion.recommended import as_facts, recommended_for
from ..inference.upscaler import SuperResolver
from ..networks.build import build_rrdb, build_unet, zero_output
from ..networks.heads import without_auxiliary
from ..networks.rrdb import RRDB
from ..networks.unet import UNet
from ..objectives.diversity import diversity
from ..objectives.residual_spread import measure_rescale, with_measured_scale, with_rescale
from .cost_estimate import Pace, expected_pace, measure
from .distributed import ProcessGroup
from .logger import Tracker
from .loop import Stage, run
from .run_dir import acquire_run_dir, requested_settings, versions
from .state import State, states, steps_done
from .tasks import DiffusionTask, RrdbTask, StageTask, check_inputs, tensors_of, validation_sampler
from .validation import Benchmark, SheetSaver, Upscale, check_benchmarks, describe, held_out, regress, score, with_perceptual

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Arguments of all stages."""

    data: ShardDataset
    out: Path
    config: RunConfig
    ranks: ProcessGroup
    saved: dict[str, object]
    facts: dict[str, object]
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
    """Train both stages into a run's folder, or resume it. Returns the model's file.

    Args:
        stores: opened stores, of the scale in the configuration.
        out: the run's folder.
        config: all settings.
        device: to train on.
        rrdb: checkpoint whose RRDB replaces stage one.
        report: called with each status line.
        benchmarks: whole images that are validated on, in addition to the held-out tiles; see `validation.read_benchmark`.
        ranks: the processes of `torchrun`, see `distributed.join`; None: this process alone.
        start: model to fine-tune: both stages start from its weights; `shipped` for the one that comes with samdiff; None: random weights.

    Raises:
        ConfigError: patch or batch do not fit, the folder holds a run with other settings, or masks are missing.
        BusyError: another process is training into the folder.
        CheckpointError: `rrdb` or `start` does not fit, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved.
    """
    ranks = ranks or ProcessGroup(device)
    config, how = with_measured_scale(config, stores), config.train
    data = ShardDataset(stores, how.patch, how.seed, hold_out=config.validate.images, labels=how.labels)
    check_inputs(config, stores, data, ranks=ranks)
    check_benchmarks(benchmarks, data)
    speak = report if ranks.is_main else log.debug
    beginning = None if start is None else of_scale(start, config, "diffusion")
    check_given(config, rrdb, beginning)
    requested = requested_settings(config, stores, rrdb, start=start)
    # on every rank, so that all know when rank 0 validates
    own = held_out(stores, config.validate.images, config.validate.tiles) if config.validate.every else None
    every = tuple(benchmarks) if own is None else (own, *benchmarks)
    facts = {"stores": requested["stores"], "version": __version__, "versions": versions()}
    with ExitStack() as held:
        for line in ranks.run_on_main(lambda: acquire_run_dir(out, requested, held)):
            speak(line)
        if config.validate.every and not every:
            most = f"validate.images={config.validate.images}, at most a tenth of them"
            speak(f"no validation: no image is held out ({most}), and there is no --benchmark")
        if config.validate.every and every and ranks.is_main:  # the others only need to know that rank 0 validates
            every = with_perceptual(every, config.validate.perceptual, device=device, report=speak)
        tracker = Tracker(out, config.train.tensorboard and ranks.is_main)
        scored = every if config.validate.every else ()
        pace = Pace()  # only rank 0 reports
        if ranks.is_main:
            images = [hr for benchmark in scored for _, hr in benchmark.pairs]
            steps = validation_sampler(config)[1] or config.diffusion.timesteps
            has_rrdb = rrdb is not None or (out / RRDB_FILE).exists() and not steps_done(out, "rrdb")
            scaled = with_rescale(config, config.diffusion.rescale or 1.0)
            pace = expected_pace(
                data, out, scaled, ranks=ranks, images=images, sampling_steps=steps, has_rrdb=has_rrdb, report=speak
            )
        this = Run(
            data=data,
            out=out,
            config=config,
            ranks=ranks,
            saved=requested,
            facts=facts,
            tracker=tracker,
            benchmarks=scored,
            report=speak,
            start=beginning,
            pace=pace,
        )
        first = _rrdb_stage(this, rrdb)
        torch.manual_seed(int(mix(config.train.seed, Stream.WEIGHTS, 2)) >> 1)
        _diffusion_stage(this, build_unet(config), first)
    return out / MODEL_FILE


def _diffusion_stage(this: Run, unet: UNet, rrdb: RRDB) -> None:
    this = _with_rescale(this, rrdb)
    if this.start is not None:
        load_into(unet, this.start.part("unet"), "--init-from")
        if this.config.diffusion.process == "flow" != config_of(this.start.config).diffusion.process:
            zero_output(unet)
            this.report(
                "--init-from: a model of another process; all of its U-Net is used except for the last layer, which starts from zero"
            )
    task = DiffusionTask(this.data, unet, rrdb, config=this.config, device=this.ranks.device)
    frozen = {f"rrdb.{name}": value for name, value in rrdb.state_dict().items()}
    facts = {**this.facts, "recommended": as_facts(recommended_for(this.config))}

    def model(state: State) -> Checkpoint:
        averaged = {f"unet.{name}": value for name, value in without_auxiliary(state.ema).items()}
        return Checkpoint("diffusion", {**averaged, **frozen}, this.saved, facts={**facts, "step": state.step})

    def upscaler(state: State) -> Upscale:
        resolver = SuperResolver(model(state), "the averaged weights", this.ranks.device)
        sampler, steps = validation_sampler(this.config)
        return lambda lr, number: resolver.upscale(lr, steps=steps, seed=number, sampler=sampler, num_samples=1)

    frozen_sha256 = weights_digest({name: value.cpu() for name, value in rrdb.state_dict().items()})
    train_stage(
        this,
        task,
        this.config.train.steps,
        model=model,
        upscaler=upscaler,
        file=MODEL_FILE,
        best=BEST_FILE if this.config.loss.perceptual == "none" else None,
        frozen_sha256=frozen_sha256,
    )


def _with_rescale(this: Run, rrdb: RRDB) -> Run:
    """Set the scale of residuals to the RRDB: that of the newest state, else measured now. It is saved with every model."""
    if this.config.diffusion.rescale:
        return this

    def decide() -> float:
        saved = states(this.out, "diffusion")
        if saved:
            return config_of(load_checkpoint(saved[-1], "state").config).diffusion.residual_scale
        data, device = this.data, this.ranks.device
        return measure_rescale(rrdb, this.config, batch=tensors_of(data), count=len(data), device=device, samples=data.samples)

    value = this.ranks.run_on_main(decide)
    config = with_rescale(this.config, value)
    this.report(f"diffusion: residuals to the RRDB's image are multiplied by {value:g}")
    return replace(this, config=config, saved={**this.saved, "diffusion": config.as_dict()["diffusion"]})


def _rrdb_stage(this: Run, given: Path | None) -> RRDB:
    """The trained RRDB: from a file, from this run's finished stage one, or trained now."""
    torch.manual_seed(int(mix(this.config.train.seed, Stream.WEIGHTS, 1)) >> 1)
    network, averaged = build_rrdb(this.config), build_rrdb(this.config)
    finished, steps = given or this.out / RRDB_FILE, this.config.train.rrdb_steps

    def model(state: State) -> Checkpoint:
        tensors = {f"rrdb.{name}": value for name, value in without_auxiliary(state.ema).items()}
        return Checkpoint("rrdb", tensors, this.saved, facts={**this.facts, "step": state.step})

    def upscaler(state: State) -> Upscale:
        averaged.to(this.ranks.device).load_state_dict(without_auxiliary(state.ema))
        return lambda lr, _: regress(averaged, lr, this.ranks.device, this.data.samples)

    begun = steps_done(this.out, "diffusion") > 0  # then its condition must not change
    if given is None and begun:
        facts = {**this.facts, "step": steps_done(this.out, "rrdb")}
        for line in this.ranks.run_on_main(
            lambda: restore_rrdb(finished, this.out / MODEL_FILE, config=this.saved, facts=facts)
        ):
            this.report(line)
    done = steps_of(finished) if given is None and finished.exists() else None
    if given is not None:
        this.report(f"rrdb: from {finished}, instead of stage one")
    elif done is not None and (begun or done >= steps):
        late = f"; it cannot be trained to {steps}, since stage two has begun on its features" if done < steps else ""
        this.report(f"rrdb: already finished, {done} steps{late}; {finished}")
    else:
        if this.start is not None:
            load_into(network, this.start.part("rrdb"), "--init-from")
        task = RrdbTask(this.data, network, config=this.config, device=this.ranks.device)
        train_stage(this, task, steps, model=model, upscaler=upscaler, file=RRDB_FILE, best=None)
    return load_rrdb(averaged, finished, this.config).to(this.ranks.device)


def train_stage(
    this: Run,
    task: StageTask,
    steps: int,
    model: Callable[[State], Checkpoint],
    upscaler: Callable[[State], Upscale],
    file: str,
    best: str | None,
    frozen_sha256: str | None = None,
) -> None:
    """Estimate the cost, train, report. `file` is written at each checkpoint (the RRDB's at the end only), `best` at the best validation.

    Both hold the metrics of their validation, `file` those of the last one before it.
    """
    settings, v, ranks = this.config.train, this.config.validate, this.ranks
    option = "--rrdb-steps" if task.name == "rrdb" else "--steps"
    latest: dict[str, object] = {}

    def publish(state: State) -> None:
        if task.name != "rrdb" or state.step >= steps:
            latest.update(
                {} if latest else validation_in(this.out / file, state.step)
            )  # of a validation before the run was resumed
            save_checkpoint(this.out / file, with_validation(model(state), latest))

    def validate(state: State) -> None:
        for number, benchmark in enumerate(this.benchmarks):
            upscale = upscaler(state)
            saver = SheetSaver(this.out, task.name, state.step, images=v.save_images, report=this.report)
            metrics, sheet = score(benchmark, upscale, saver)
            if isinstance(task, DiffusionTask) and number == 0:
                base = partial(regress, task.rrdb, device=ranks.device, samples=this.data.samples)
                metrics |= diversity(benchmark.pairs, base, upscale)
            if isinstance(task, DiffusionTask):
                sampler, sampling_steps = validation_sampler(this.config)
                metrics |= {"sampler": sampler, "sampling_steps": sampling_steps or this.config.diffusion.timesteps}
            this.tracker.metrics({"stage": task.name, "step": state.step, **metrics})
            this.tracker.image(f"{task.name}/{benchmark.name}", sheet, state.step)
            if benchmark.psnr not in metrics:
                this.report(f"{task.name} {state.step}: {benchmark.name} has no image large enough for PSNR")
                continue
            this.report(f"{task.name} {state.step}: {describe(metrics)}")
            if number == 0:
                latest.update({**metrics, "step": state.step})
                if state.best is None or metrics[benchmark.psnr] > state.best:
                    state.best = metrics[benchmark.psnr]
                    if best is not None:
                        save_checkpoint(this.out / best, with_validation(model(state), latest))

    share = ranks.local_batch(settings.batch, settings.grad_accum)
    if ranks.is_main and task.name in this.pace.parts:
        memory = measure(task.network, task.loss, task.make_batch(0, 1), device=ranks.device)
        line = memory.line(task.name, at_once=share // settings.grad_accum, ranks=ranks.world, device=ranks.device)
        this.report(f"{line}, {this.pace.line(task.name, settings.batch)}")
    stage = Stage(
        settings,
        steps,
        this.out,
        config=this.saved,
        tracker=this.tracker,
        on_checkpoint=publish,
        validate=validate,
        validate_every=v.every if this.benchmarks else 0,
        frozen_sha256=frozen_sha256,
        pace=this.pace,
    )
    state, done = run(task, stage, ranks)
    if not done and ranks.is_main and (steps == 0 or not (this.out / file).exists() or steps_of(this.out / file) < state.step):
        publish(state)
    ranks.wait()
    if done:
        this.report(
            f"{task.name}: {done} steps done, {state.step} in all, {int(state.guard.skipped)} skipped; {this.out / file}"
        )
    elif state.step:
        this.report(f"{task.name}: already finished, {state.step} steps; nothing to do (more with {option} N)")
    else:
        whose = "random" if this.start is None else "--init-from's"
        this.report(f"{task.name}: no steps requested ({option} 0), {whose} weights unchanged; {this.out / file}")
