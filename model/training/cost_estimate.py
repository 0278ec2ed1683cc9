"""Estimates the cost of a run: memory from one sample, time from three trial steps of each stage, corrected during the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ...pipeline.stream.dataset import ShardDataset
from ...progress import activity, duration
from ..config import RunConfig
from ..networks.build import build_rrdb, build_unet
from .distributed import ProcessGroup
from .run_dir import steps_done
from .tasks import DiffusionTask, RrdbTask

TIMED, CORRECTED = 3, 20
"""Trial steps of the first estimate; steps after which it is corrected."""
_STAGES = ("rrdb", "diffusion")
_LONGEST_TRIAL = 30.0  # seconds; if trial steps take longer, fewer are made
_FORWARD = 1 / 3  # share of the forward pass in the time of a training step; the backward pass takes twice as long


class Steps(Protocol):
    """The part of `loop.Task` that is timed."""

    network: nn.Module

    def make_batch(self, position: int, size: int) -> dict[str, Tensor]:
        """Samples on the CPU."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of a batch on the device."""


@dataclass(frozen=True)
class Memory:
    """Memory of a training step, measured on one sample."""

    parameters: int
    per_sample: int
    """Bytes of activations per sample that the backward pass needs."""
    fixed: int
    """Bytes of weights, gradients, Adam's moments and EMA: 20 per parameter."""

    def line(self, name: str, *, at_once: int, ranks: int, device: torch.device) -> str:
        """`rrdb: 0.91 M parameters on cpu; about 240 MB (…)`."""
        memory = self.fixed + at_once * self.per_sample
        text = f"{name}: {self.parameters / 1e6:.2f} M parameters on {device}; about {_bytes(memory)} "
        text += (
            f"({_bytes(self.fixed)} weights and optimiser, {_bytes(at_once * self.per_sample)} activations of {at_once} samples"
        )
        text += f"{' per process' if ranks > 1 else ''})"
        if device.type == "cuda" and memory > torch.cuda.mem_get_info(device)[0]:
            text += f"; only {_bytes(torch.cuda.mem_get_info(device)[0])} are free: try --set train.grad_accum=2 or train.gradient_checkpointing=true"
        return text


def measure(
    network: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor], sample: dict[str, Tensor], device: torch.device
) -> Memory:
    """Run one sample forward and backward; weights do not change, gradients are dropped."""
    sizes: dict[int, int] = {}
    own = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    on_device = {name: value.to(device) for name, value in sample.items()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        loss(on_device).backward()
    network.zero_grad(set_to_none=True)
    count = sum(value.numel() for value in network.parameters())
    return Memory(count, sum(sizes.values()), 20 * count)


def time_step(task: Steps, *, share: int, pieces: int, device: torch.device) -> float:
    """Seconds of a training step: the median of three trial steps, which change no weights; of fewer if they take longer than 30 seconds.

    Args:
        task: of the stage.
        share: samples of this process per step.
        pieces: parts of a batch (gradient accumulation).
        device: to train on.
    """
    taken: list[float] = []
    while len(taken) < TIMED and sum(taken) < _LONGEST_TRIAL:
        started = time.perf_counter()
        batch = {name: value.to(device) for name, value in task.make_batch(0, share).items()}
        for number in range(pieces):
            part = slice(number * share // pieces, (number + 1) * share // pieces)
            (task.loss({name: value[part] for name, value in batch.items()}) / pieces).backward()
        task.network.zero_grad(set_to_none=True)
        _wait(device)
        taken.append(time.perf_counter() - started)
    return median(taken)


def peak_memory_mb(device: torch.device) -> float | None:
    """Largest memory so far in MB (10^6 bytes): of PyTorch's allocator on a GPU, else of this process. None where the system does not tell."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of `ru_maxrss`
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def validation_seconds(step_s: float, *, step_pixels: int, pixels: int, evaluations: int) -> float:
    """Seconds of one validation, from the time of a training step.

    Args:
        step_s: seconds of a training step.
        step_pixels: HR pixels of one training step.
        pixels: HR pixels of all images that are scored.
        evaluations: network calls per image.
    """
    return _FORWARD * step_s * evaluations * pixels / step_pixels


def validations_left(done: int, steps: int, every: int) -> int:
    """Validations that a stage has left after `done` of `steps` steps: one per `every` steps and one at the end; 0 for `every` = 0."""
    if not every or done >= steps:
        return 0
    return steps // every - done // every + (steps % every > 0)


@dataclass
class Part:
    """One stage's remaining work."""

    name: str
    steps: int
    """Steps left."""
    step_s: float
    """Seconds per step."""
    validations: int = 0
    """Validations left."""
    validation_s: float = 0.0
    """Seconds per validation."""

    @property
    def seconds(self) -> float:
        """Seconds left."""
        return self.steps * self.step_s + self.validations * self.validation_s


class Pace:
    """Estimates the remaining time of a run: both stages with their validation, corrected during the run."""

    def __init__(
        self,
        parts: Iterable[Part] = (),
        report: Callable[[str], None] = lambda _: None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            parts: the stages that are not finished, in order.
            report: called with one line when the estimate is corrected.
            device: synchronised at the first and the twentieth step of a stage; None: not synchronised.
            clock: returns seconds.
        """
        self.parts = {part.name: part for part in parts}
        self._report, self._device, self._clock = report, device, clock
        self._count, self._since, self._held = 0, 0.0, 0.0

    @property
    def left(self) -> float:
        """Remaining seconds of all stages."""
        return sum(part.seconds for part in self.parts.values())

    def line(self, name: str, batch: int) -> str:
        """`about 40 min for 6000 steps of 16, about 3.5 h in all with validation and stage two`."""
        part = self.parts[name]
        others = [f"{other.name} stage" for other in self.parts.values() if other is not part and other.steps]
        others += ["validation"] if any(other.validations for other in self.parts.values()) else []
        text = f"about {duration(part.steps * part.step_s)} for {part.steps} steps of {batch}"
        return text + (f", about {duration(self.left)} in all with {' and '.join(others)}" if others else "")

    def begin(self) -> None:
        """A stage begins."""
        self._count = 0

    def step(self, name: str) -> None:
        """Count a finished step. The first one is not timed: it may compile and select kernels."""
        part = self.parts.get(name)
        if part is None:
            return
        part.steps, self._count = max(0, part.steps - 1), self._count + 1
        if self._count not in (1, CORRECTED):
            return
        _wait(self._device)
        if self._count == 1:
            self._since, self._held = self._clock(), 0.0
            return
        part.step_s = (self._clock() - self._since - self._held) / (CORRECTED - 1)
        if part.steps:
            self._report(f"{name}: after {CORRECTED} steps, about {duration(self.left)} left in all")

    def rate(self, name: str, seconds: float) -> None:
        """Update the seconds per step from the log, after the first steps."""
        if name in self.parts and self._count > CORRECTED:
            self.parts[name].step_s = seconds

    def paused(self, name: str, seconds: float, validated: bool) -> None:
        """Exclude seconds of validation or saving from the time of steps."""
        self._held += seconds
        part = self.parts.get(name)
        if part is not None and validated:
            part.validations, part.validation_s = max(0, part.validations - 1), seconds


def expected_pace(
    data: ShardDataset,
    out: Path,
    config: RunConfig,
    *,
    ranks: ProcessGroup,
    images: Sequence[np.ndarray],
    sampling_steps: int,
    has_rrdb: bool,
    report: Callable[[str], None],
) -> Pace:
    """Estimate the time of both stages and their validation from three trial steps of each, with random weights.

    Args:
        data: training data.
        out: the run's folder, for the number of finished steps.
        config: of the run, with `residual_scale` set.
        ranks: the processes.
        images: HR images [H, W] or [H, W, 3] of the validation; empty: no validation.
        sampling_steps: of the validation.
        has_rrdb: stage one is finished or skipped.
        report: see `Pace`.
    """
    device, settings = ranks.device, config.train
    share, done = ranks.local_batch(settings.batch, settings.grad_accum), {name: steps_done(out, name) for name in _STAGES}
    ends = {"rrdb": 0 if has_rrdb or done["diffusion"] else settings.rrdb_steps, "diffusion": settings.steps}
    evaluations = {"rrdb": 1, "diffusion": sampling_steps + 1}  # plus one of the RRDB
    make: dict[str, Callable[[], Steps]] = {
        "rrdb": lambda: RrdbTask(data, build_rrdb(config), config=config, device=device),
        "diffusion": lambda: DiffusionTask(data, build_unet(config), build_rrdb(config), config=config, device=device),
    }
    pixels, step_pixels = sum(hr.shape[0] * hr.shape[1] for hr in images), share * settings.patch**2
    parts = []
    for name in [name for name in _STAGES if done[name] < ends[name]]:
        with activity(f"timing {TIMED} steps of the {name} stage"):
            step_s = time_step(make[name](), share=share, pieces=settings.grad_accum, device=device)
        validations = validations_left(done[name], ends[name], config.validate.every if images else 0)
        each = validation_seconds(step_s, step_pixels=step_pixels, pixels=pixels, evaluations=evaluations[name])
        parts.append(Part(name, ends[name] - done[name], step_s, validations=validations, validation_s=each))
    return Pace(parts, report, device)


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
