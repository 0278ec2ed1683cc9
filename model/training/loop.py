"""The training loop: batch, step, log, validation, checkpoint, resume. A `Task` defines what is trained.

The sample position is step x batch size, and all randomness of a sample is a function of (seed, position), so a resumed run sees the
same samples as an uninterrupted one. No step waits for the device.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ...errors import SamdiffError
from ...pipeline.stream.loader import ShardLoader
from ...progress import EVERY, PlainProgress, Progress, duration, progress
from ..config import TrainConfig
from .cost_estimate import Pace, peak_memory_mb
from .distributed import ProcessGroup
from .logger import Tracker
from .optimizer import Guard, average, ema_decay, learning_rate, make_optimiser, set_lr, update
from .state import State, fresh, resume, save_state

log = logging.getLogger(__name__)

MAX_BAD_STEPS = 10
"""Consecutive steps without a finite loss after which a run stops. Checked every 10 steps."""
_GAP = 1.0  # minimum seconds between two plain lines of progress


class TrainingError(SamdiffError):
    """Training cannot continue."""


class Task(Protocol):
    """A network with its batches and its loss."""

    name: str
    """`rrdb` or `diffusion`: names the log's lines and the state files."""
    network: nn.Module
    """Its parameters are trained, and averaged (EMA)."""
    forward: nn.Module
    """Called by `loss`: the network, possibly compiled or in DistributedDataParallel."""

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """`size` samples from a global position on, on the CPU; deterministic given the seed."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of a batch on the training device."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run."""

    settings: TrainConfig
    steps: int
    """Total number of training steps."""
    folder: Path
    """The run's folder, where `state-TASK-STEP.safetensors` is written."""
    config: dict[str, object]
    """Saved with each state."""
    tracker: Tracker
    """Logs the metrics."""
    on_checkpoint: Callable[[State], None]
    """Called on rank 0 after each saved state, to write the model file."""
    validate: Callable[[State], None]
    """Called on rank 0 every `validate_every` steps and at the end."""
    validate_every: int = 0
    """0: never."""
    frozen_sha256: str | None = None
    """SHA-256 of the frozen RRDB's weights, saved with each state; None for stage one."""
    pace: Pace = field(default_factory=Pace)
    """Estimate of the remaining time."""


def run(task: Task, stage: Stage, ranks: ProcessGroup) -> tuple[State, int]:
    """Train up to the stage's number of steps, resuming from the newest state. Returns the final state and the number of steps done now.

    Raises:
        TrainingError: the loss was not finite in ten consecutive steps.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
    """
    settings, steps = stage.settings, stage.steps
    share = ranks.local_batch(settings.batch, settings.grad_accum)
    optimiser, guard = make_optimiser(task.network, settings), Guard.new(settings.amp, ranks.device)
    state = resume(
        task.name,
        task.network,
        optimiser,
        guard=guard,
        folder=stage.folder,
        config=stage.config,
        frozen_sha256=stage.frozen_sha256,
    ) or fresh(task.network, guard)
    compiled = cast(nn.Module, torch.compile(task.network)) if settings.compile else task.network
    task.forward = ranks.wrap(compiled)
    clock, begun = _Clock(state.step), state.step
    stage.pace.begin()
    bar = progress(desc=task.name, total=steps, initial=state.step, unit="step") if ranks.is_main else None

    loader = ShardLoader(
        task.make_batch,
        share,
        start=state.step * settings.batch,
        steps=max(0, steps - state.step),
        rank=ranks.rank,
        ranks=ranks.world,
        workers=settings.num_workers,
        device=ranks.device,
    )
    with _stop_requested() as requested, contextlib.closing(iter(loader)) as batches:  # type: ignore[type-var]
        task.network.train()
        for batch in batches:
            set_lr(optimiser, learning_rate(state.step, settings, steps))
            loss, stop = ranks.all_reduce(
                _backward(task, batch, settings.grad_accum, guard=guard, ranks=ranks), requested.is_set()
            )
            bad = update(optimiser, guard, loss, settings=settings)
            optimiser.zero_grad(set_to_none=True)
            state.step += 1
            average(state.ema, task.network, ema_decay(state.step, settings.ema_decay))
            clock.add(loss, bad)
            stage.pace.step(task.name)
            stop = stop or (ranks.world == 1 and requested.is_set())
            _after_step(task, stage, ranks, optimiser=optimiser, state=state, clock=clock, bar=bar, stop=stop)
            if stop and state.step < steps:
                raise KeyboardInterrupt
    if bar is not None:
        bar.close()
    return state, state.step - begun


def _backward(task: Task, batch: dict[str, Tensor], pieces: int, guard: Guard, ranks: ProcessGroup) -> Tensor:
    """Accumulate gradients of the mean loss over equal parts of a batch. Returns the loss, detached."""
    size = len(next(iter(batch.values()))) // pieces
    total: Tensor | float = 0.0
    for number in range(pieces):
        piece = {name: value[number * size : (number + 1) * size] for name, value in batch.items()} if pieces > 1 else batch
        with ranks.no_sync(task.forward, number == pieces - 1):
            loss = task.loss(piece) / pieces
            (loss * guard.scale).backward()
        total = total + loss.detach()
    assert isinstance(total, Tensor)
    return total


def _after_step(
    task: Task,
    stage: Stage,
    ranks: ProcessGroup,
    optimiser: torch.optim.Optimizer,
    state: State,
    clock: _Clock,
    bar: Progress[object] | None,
    stop: bool,
) -> None:
    """Periodic work: check the counters, log, validate, save."""
    settings, done = stage.settings, state.step == stage.steps
    validating = stage.validate_every > 0 and (state.step % stage.validate_every == 0 or done)
    save = state.step % settings.checkpoint_every == 0 or done or stop
    if (state.step % MAX_BAD_STEPS == 0 or validating or save) and float(state.guard.longest) >= MAX_BAD_STEPS:
        raise TrainingError(
            f"{task.name}: the loss was not finite in {MAX_BAD_STEPS} consecutive steps (before step {state.step}); the last good state is in "
            f"{stage.folder}; try a smaller --set train.lr, --set train.warmup=1000 or train.amp=off, or check the store with `samdiff verify`"
        )
    if ranks.is_main:
        _record(task, stage, state, clock=clock, bar=bar, done=done)
    if validating or save:
        clock.hold()
        started = time.perf_counter()
        if ranks.is_main:
            if validating:
                stage.validate(state)
                stage.pace.paused(task.name, time.perf_counter() - started, validated=True)
                started = time.perf_counter()
            if save:
                folder, frozen_sha256 = stage.folder, stage.frozen_sha256
                save_state(
                    task.name,
                    task.network,
                    optimiser,
                    state=state,
                    folder=folder,
                    config=stage.config,
                    batch=settings.batch,
                    keep=settings.keep,
                    frozen_sha256=frozen_sha256,
                )
                stage.on_checkpoint(state)
        ranks.wait()
        stage.pace.paused(task.name, time.perf_counter() - started, validated=False)
        clock.go()


def _record(task: Task, stage: Stage, state: State, clock: _Clock, bar: Progress[object] | None, done: bool) -> None:
    """Write a line of the log every `log_every` steps, and update the progress then, or after 30 seconds."""
    settings, logged = stage.settings, state.step % stage.settings.log_every == 0 or done
    if logged or clock.shown_ago() >= EVERY:
        rate = learning_rate(state.step - 1, settings, stage.steps)
        metrics = clock.take(state.step, settings.batch) if logged else clock.peek(state.step, settings.batch)
        stage.pace.rate(task.name, settings.batch / metrics["samples_per_s"] if metrics["samples_per_s"] else 0.0)
        if logged:
            line = {"stage": task.name, "step": state.step, **metrics, "lr": rate}
            peak = peak_memory_mb(next(task.network.parameters()).device)
            line |= {} if peak is None else {"peak_memory_mb": peak}
            stage.tracker.metrics({**line, "skipped": int(state.guard.skipped), "loss_scale": float(state.guard.scale)})
        if bar is not None:
            text = f"loss {metrics['loss']:.4f}, {metrics['samples_per_s']:.1f} samples/s"
            bar.set_postfix_str(f"{text}, about {duration(stage.pace.left)} left" if stage.pace.left else text)
        clock.shown()
    if bar is None:
        return
    bar.update()
    if logged and isinstance(bar, PlainProgress):
        bar.write_line(gap=0.0 if done else _GAP)


class _Clock:
    """Mean loss (kept on the device until it is read) and samples per second, without validation and saving."""

    def __init__(self, step: int) -> None:
        self.total: Tensor | float = 0.0
        self.good: Tensor | float = 0.0
        self.step, self.spent, self.since = step, 0.0, time.perf_counter()
        self._shown = self.since

    def shown(self) -> None:
        """Note that the progress was updated."""
        self._shown = time.perf_counter()

    def shown_ago(self) -> float:
        """Seconds since the progress was updated."""
        return time.perf_counter() - self._shown

    def add(self, loss: Tensor, bad: Tensor) -> None:
        """Add the loss of a step; skipped steps do not count."""
        self.total, self.good = self.total + torch.where(bad > 0, torch.zeros_like(loss), loss), self.good + (1 - bad)

    def hold(self) -> None:
        """Stop the clock: validation or saving follows."""
        self.spent += time.perf_counter() - self.since

    def go(self) -> None:
        """Continue the clock."""
        self.since = time.perf_counter()

    def peek(self, step: int, batch: int) -> dict[str, float]:
        """Loss and samples per second since the last `take`."""
        seconds, good = self.spent + time.perf_counter() - self.since, float(self.good)
        return {
            "loss": float(self.total) / good if good else float("nan"),
            "samples_per_s": round(batch * (step - self.step) / seconds, 2),
        }

    def take(self, step: int, batch: int) -> dict[str, float]:
        """Return what `peek` returns, and start again from zero."""
        metrics = self.peek(step, batch)
        self.total, self.good, self.step, self.spent, self.since = 0.0, 0.0, step, 0.0, time.perf_counter()
        return metrics


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set: the loop then saves the state and stops. A second Ctrl-C stops at once."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if requested.is_set():
            raise KeyboardInterrupt
        requested.set()
        log.warning("stopping after this step; saving the state first")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
