"""The training loop: batches by position, one step, log, checkpoint, resume. What is trained comes in as a `Task`.

The state of a run is (step, weights, EMA, Adam's moments). The sample position is step x batch, and everything random about a sample
is a function of (seed, position), so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import SamdiffError
from ..runtime import progress
from .checkpoint import Checkpoint, load_checkpoint, load_into, save_checkpoint
from .config import TrainConfig

log = logging.getLogger(__name__)

_AHEAD = 2  # batches made in advance


class TrainingError(SamdiffError):
    """Training cannot go on."""


class Task(Protocol):
    """What the loop trains."""

    name: str
    """`rrdb` or `diffusion`: names the log's lines and the state files."""
    network: nn.Module
    """Its parameters are trained, and averaged."""

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """The samples from a global position on, on the CPU; a function of its arguments and the seed."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of a batch that lies on the training device."""


@dataclass
class State:
    """What changes while training."""

    step: int
    ema: dict[str, Tensor]
    skipped: int = 0
    """Steps left out because the loss was not finite."""


def run(
    task: Task,
    settings: TrainConfig,
    steps: int,
    folder: Path,
    device: torch.device,
    config: dict[str, Any],
    on_checkpoint: Callable[[State], None],
) -> State:
    """Train until `steps`, resuming from the folder's newest state; returns the final state.

    Args:
        task: network, batches and loss.
        settings: batch, learning rate, EMA, intervals.
        steps: total number of steps of this stage.
        folder: of the run; gets `log.jsonl` and `state-TASK-STEP.safetensors`.
        device: where the network lies and the loss is computed.
        config: the resolved configuration, saved with each state and compared on resume.
        on_checkpoint: called after each saved state, to write what others read.

    Raises:
        TrainingError: the loss was not finite ten times in a row.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
    """
    optimiser = torch.optim.Adam(task.network.parameters(), lr=settings.lr, betas=(0.9, 0.99), foreach=True)
    state = _resume(task, optimiser, folder) or State(0, _copy(task.network))
    bar = progress(desc=task.name, total=steps, initial=state.step, unit="step")
    mean, since, bad = _Mean(), time.perf_counter(), 0
    with _stop_asked() as stop, _batches(task, state.step, steps, settings.batch) as batches:
        task.network.train()
        for batch in batches:
            on_device = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            set_lr(optimiser, learning_rate(state.step, settings))
            loss = task.loss(on_device)
            finite = _update(task.network, optimiser, loss, settings.clip)
            bad = 0 if finite else bad + 1
            state.skipped += not finite
            state.step += 1
            if finite:
                average(state.ema, task.network, ema_decay(state.step, settings.ema))
                mean.add(loss.detach())
            elif bad >= 10:
                raise TrainingError(
                    f"{task.name}: the loss was not finite in 10 steps running (step {state.step}); the last good state is in {folder}; "
                    "try a smaller --set train.lr or check the store with `samdiff info`"
                )
            bar.update()
            if state.step % settings.log_every == 0 or state.step == steps:
                now = time.perf_counter()
                line = {
                    "stage": task.name,
                    "step": state.step,
                    "loss": mean.take(),
                    "lr": learning_rate(state.step - 1, settings),
                }
                rate = settings.batch * ((state.step - 1) % settings.log_every + 1) / (now - since)
                _log(folder, {**line, "samples_per_s": round(rate, 2), "skipped": state.skipped})
                bar.set_postfix(loss=f"{line['loss']:.4f}", samples_per_s=f"{rate:.1f}")
                since = now
            if state.step % settings.checkpoint_every == 0 or state.step == steps or stop.is_set():
                _save(task, optimiser, state, folder, config, settings.keep)
                on_checkpoint(state)
            if stop.is_set() and state.step < steps:
                bar.close()
                raise KeyboardInterrupt
    bar.close()
    return state


def learning_rate(step: int, settings: TrainConfig) -> float:
    """The rate of a 0-based step: halved every `halve_every` steps (the official schedule), after a linear warm-up."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    return settings.lr * warm * 0.5 ** (step // settings.halve_every)


def set_lr(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def ema_decay(step: int, decay: float) -> float:
    """The average's decay at a 1-based step: warms up as (1 + n) / (10 + n), so early weights are forgotten."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(ema: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights, in place."""
    weights = network.state_dict()
    names = [name for name, value in weights.items() if value.is_floating_point()]
    torch._foreach_lerp_([ema[name] for name in names], [weights[name] for name in names], 1 - decay)


def _update(network: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor, clip: float) -> bool:
    """One optimiser step, left out (and False) if loss or gradient is not finite."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip or float("inf"), foreach=True)
    if not torch.isfinite(loss.detach() + norm):  # the one host synchronisation of a step
        return False
    optimiser.step()
    return True


class _Mean:
    """Mean of losses, kept on the device until it is asked for."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, value: Tensor) -> None:
        self.total, self.count = self.total + value, self.count + 1

    def take(self) -> float:
        mean = float(self.total) / self.count if self.count else float("nan")
        self.total, self.count = 0.0, 0
        return mean


@contextmanager
def _batches(task: Task, step: int, steps: int, size: int) -> Iterator[Iterator[dict[str, Tensor]]]:
    """Batches of the steps to come, made in a thread ahead of their use."""
    ready: queue.Queue[dict[str, Tensor] | BaseException] = queue.Queue(_AHEAD)
    closed = threading.Event()

    def put(item: dict[str, Tensor] | BaseException) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for index in range(step, steps):
                if closed.is_set():
                    return
                put(task.make_batch(index * size, size))
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
            put(error)

    def take() -> Iterator[dict[str, Tensor]]:
        for _ in range(step, steps):
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        closed.set()
        thread.join()


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the loop then saves before it stops. A second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        log.warning("stopping after this step, the state is saved first")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _log(folder: Path, line: dict[str, Any]) -> None:
    with open(folder / "log.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def states(folder: Path, name: str) -> list[Path]:
    """The saved states of a stage, oldest first."""
    return sorted(folder.glob(f"state-{name}-*.safetensors"))


def _save(task: Task, optimiser: torch.optim.Optimizer, state: State, folder: Path, config: dict[str, Any], keep: int) -> None:
    tensors = {f"network.{name}": value for name, value in task.network.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    names = [name for name, _ in task.network.named_parameters()]
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{key}.{names[index]}": value for key, value in moments.items()}
    facts = {"stage": task.name, "step": state.step, "skipped": state.skipped}
    save_checkpoint(folder / f"state-{task.name}-{state.step:08d}.safetensors", Checkpoint("state", tensors, config, facts))
    for old in states(folder, task.name)[:-keep]:
        old.unlink()


def _resume(task: Task, optimiser: torch.optim.Optimizer, folder: Path) -> State | None:
    """Load the newest state into network and optimiser; None if there is none."""
    saved = states(folder, task.name)
    if not saved:
        return None
    checkpoint = load_checkpoint(saved[-1], kind="state")
    load_into(task.network, checkpoint.part("network"), str(saved[-1]))
    parameters = dict(task.network.named_parameters())
    moments: dict[int, dict[str, Tensor]] = {index: {} for index in range(len(parameters))}
    for key in ("step", "exp_avg", "exp_avg_sq"):
        part = checkpoint.part(f"adam.{key}")
        for index, name in enumerate(parameters):
            if name in part:
                moments[index][key] = part[name]
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": {index: values for index, values in moments.items() if values}})
    ema = {name: value.to(task.network.state_dict()[name].device) for name, value in checkpoint.part("ema").items()}
    log.info("%s: going on from step %d", task.name, checkpoint.facts["step"])
    return State(checkpoint.facts["step"], ema, checkpoint.facts["skipped"])
