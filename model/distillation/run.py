"""Training of a student: a run's folder like that of `samdiff train`, with one stage. Its `model.safetensors` is a checkpoint of kind `student`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from ... import __version__
from ...errors import ConfigError, WeightsError
from ...pipeline.shards.reader import Store
from ...pipeline.stream.dataset import ShardDataset
from ...pipeline.stream.order import mix
from ...pipeline.stream.random_streams import Stream
from ...progress import activity
from ..checkpoints.format import BEST_FILE, MODEL_FILE, Checkpoint, load_into
from ..checkpoints.initial import of_scale
from ..config import RunConfig
from ..inference.upscaler import SuperResolver
from ..networks.build import build_student
from ..objectives.one_step import load_distance
from ..training.cost_estimate import TIMED, Pace, Part, time_step, validation_seconds, validations_left
from ..training.distributed import ProcessGroup
from ..training.logger import Tracker
from ..training.run import Run, train_stage
from ..training.run_dir import acquire_run_dir, requested_settings, steps_done, versions
from ..training.state import State
from ..training.tasks import check_batch
from ..training.validation import Benchmark, Upscale, held_out, regress, with_perceptual
from .task import StudentTask

log = logging.getLogger(__name__)


def distill(
    teacher: Path,
    stores: Sequence[Store],
    out: Path,
    config: RunConfig,
    *,
    device: torch.device,
    report: Callable[[str], None] = log.info,
    benchmarks: Sequence[Benchmark] = (),
    ranks: ProcessGroup | None = None,
    start: Path | None = None,
) -> Path:
    """Train a student into a run's folder, or resume it. Returns the student's file.

    Args:
        teacher: the model that it learns from: a file, a run's folder, or `shipped`.
        stores: opened stores, of the teacher's scale.
        out: the run's folder.
        config: all settings, with `student.layers` of at least 1.
        device: to train on.
        report: called with each status line.
        benchmarks: whole images that are validated on, in addition to the held-out tiles.
        ranks: the processes of `torchrun`; None: this process alone.
        start: a student to start from; None: random weights.

    Raises:
        ConfigError: settings that do not fit, or the folder holds a run with other settings.
        BusyError: another process is training into the folder.
        CheckpointError: the teacher cannot be read or has another scale, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the state is saved.
    """
    ranks = ranks or ProcessGroup(device)
    how, v = config.train, config.validate
    data = ShardDataset(stores, how.patch, how.seed, hold_out=v.images, labels=how.labels)
    _check(config, data, ranks)
    data.samples.require_rgb8("samdiff distill")
    beginning = None if start is None else of_scale(start, config, "student")
    model = SuperResolver(of_scale(teacher, config, "diffusion"), str(teacher), device)
    speak = report if ranks.is_main else log.debug
    requested = requested_settings(config, stores, None, start=start, teacher=teacher)
    torch.manual_seed(int(mix(how.seed, Stream.WEIGHTS, 3)) >> 1)
    network = build_student(config)
    if beginning is not None:
        load_into(network, beginning.part("student"), "--init-from")  # an error before anything is written
    own = held_out(stores, v.images, v.tiles) if v.every else None
    every = (*(() if own is None else (own,)), *benchmarks) if v.every else ()
    with ExitStack() as held:
        for line in ranks.run_on_main(lambda: acquire_run_dir(out, requested, held)):
            speak(line)
        if ranks.is_main and every:
            every = with_perceptual(every, v.perceptual, device=device, report=speak)
        task = StudentTask(data, network, model, config=config, device=device)
        this = Run(
            data=data,
            out=out,
            config=config,
            ranks=ranks,
            saved=requested,
            facts={"stores": requested["stores"], "version": __version__, "versions": versions()},
            tracker=Tracker(out, how.tensorboard and ranks.is_main),
            benchmarks=every,
            report=speak,
            start=beginning,
            pace=_pace(task, out, config, benchmarks=every, report=speak) if ranks.is_main else Pace(),
        )
        _train(this, task)
    return out / MODEL_FILE


def _train(this: Run, task: StudentTask) -> None:
    averaged = build_student(this.config)

    def model(state: State) -> Checkpoint:
        tensors = {f"student.{name}": value for name, value in state.ema.items()}
        return Checkpoint("student", tensors, this.saved, facts={**this.facts, "step": state.step})

    def upscaler(state: State) -> Upscale:
        averaged.to(this.ranks.device).load_state_dict(state.ema)
        return lambda lr, _: regress(averaged, lr, this.ranks.device)

    best = BEST_FILE if this.config.loss.perceptual == "none" else None
    train_stage(this, task, this.config.train.steps, model=model, upscaler=upscaler, file=MODEL_FILE, best=best)


def _check(config: RunConfig, data: ShardDataset, ranks: ProcessGroup) -> None:
    """ConfigError for settings that do not fit a student, its data or the machine, before anything is written."""
    if not config.is_student:
        raise ConfigError("student.layers: expected at least 1, got 0; give --preset student, or --set student.layers=16")
    if config.loss.auxiliary != "none":
        raise ConfigError("loss.auxiliary: a student has no auxiliary head; use 'none'")
    check_batch(config, data, ranks)
    if config.loss.perceptual != "none":
        try:
            load_distance(config.loss.perceptual, ranks.device)  # missing weights are reported before the folder is made
        except WeightsError as error:
            raise WeightsError(f"{error}; or train without this loss: --set loss.perceptual=none") from error


def _pace(
    task: StudentTask, out: Path, config: RunConfig, *, benchmarks: Sequence[Benchmark], report: Callable[[str], None]
) -> Pace:
    """The expected time of the run, from three trial steps."""
    how, done = config.train, steps_done(out, task.name)
    if done >= how.steps:
        return Pace([], report, task.device)
    with activity(f"timing {TIMED} steps"):
        step_s = time_step(task, share=how.batch, pieces=how.grad_accum, device=task.device)
    pixels = sum(hr.shape[0] * hr.shape[1] for benchmark in benchmarks for _, hr in benchmark.pairs)
    each = validation_seconds(step_s, step_pixels=how.batch * how.patch**2, pixels=pixels, evaluations=1)
    left = validations_left(done, how.steps, config.validate.every if benchmarks else 0)
    return Pace([Part(task.name, how.steps - done, step_s, validations=left, validation_s=each)], report, task.device)
