"""The state of a run, saved and found again: weights, average, Adam's moments, counters, position. Bit for bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..checkpoints.expected import MOMENTS
from ..checkpoints.format import (
    MODEL_FILE,
    RRDB_FILE,
    Checkpoint,
    check_finite,
    load_checkpoint,
    load_into,
    save_checkpoint,
    way_out,
)
from ..checkpoints.plain import brief, whole_number
from ..config import config_of
from .optimizer import Guard
from .run_dir import begun_with, changes


@dataclass
class State:
    """What changes while training."""

    step: int
    """Steps done; the next sample's position is step x batch."""
    ema: dict[str, Tensor]
    """Averaged weights, by name."""
    guard: Guard
    """Steps left out, and the scale of the loss."""
    best: float | None = None
    """The best validation figure so far."""


def states(folder: Path, name: str) -> list[Path]:
    """The saved states of a stage, oldest first. A file of another name than a state has (a copy, say) is none, and is left alone."""
    return [folder / _file_name(name, step) for step in _steps(folder, name)]


def steps_done(folder: Path, name: str) -> int:
    """Steps of a stage's newest saved state."""
    return max(_steps(folder, name), default=0)


def _steps(folder: Path, name: str) -> list[int]:
    found = (re.fullmatch(rf"state-{name}-([0-9]{{8,18}})\.safetensors", path.name) for path in folder.glob("state-*"))
    steps = sorted(int(match[1]) for match in found if match)
    return [step for step in steps if (folder / _file_name(name, step)).exists()]  # written as we write it


def _file_name(name: str, step: int) -> str:
    return f"state-{name}-{step:08d}.safetensors"


def fresh(network: nn.Module, guard: Guard) -> State:
    """The state before the first step."""
    return State(0, {name: value.detach().clone() for name, value in network.state_dict().items()}, guard)


def save_state(
    name: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: State,
    folder: Path,
    config: dict[str, Any],
    batch: int,
    keep: int,
    beneath: str | None = None,
) -> None:
    """Write `state-NAME-STEP.safetensors` whole or not at all, then remove all but the last `keep`; `beneath` as in `Stage`."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.ema.items()}
    tensors |= {f"guard.{key}": value for key, value in vars(state.guard).items()}
    names = [key for key, _ in network.named_parameters()]
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{key}.{names[index]}": value for key, value in moments.items()}
    facts = {"stage": name, "step": state.step, "position": state.step * batch, "best": state.best}
    facts |= {} if beneath is None else {"beneath": beneath}
    save_checkpoint(folder / _file_name(name, state.step), Checkpoint("state", tensors, config, facts))
    for old in states(folder, name)[:-keep]:
        old.unlink()


def resume(
    name: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    guard: Guard,
    folder: Path,
    config: Mapping[str, Any],
    beneath: str | None = None,
) -> State | None:
    """Load the newest state into network and optimiser; None if there is none. Nothing is changed unless all of it is sound.

    Args:
        name: of the stage.
        network: gets the weights.
        optimiser: of the network's parameters; gets the moments.
        guard: gets the counters.
        folder: of the run.
        config: what the run saves with its states; one that was saved with other settings is not taken.
        beneath: of the frozen weights, see `Stage`; a state that was trained on others is not taken. 0.1 did not save it.

    Raises:
        CheckpointError: the newest state is damaged, or not of this run; the message says to delete it.
    """
    saved = states(folder, name)
    if not saved:
        return None
    checkpoint = load_checkpoint(saved[-1], kind="state")
    wrong = _strange(checkpoint, name, saved[-1]) or _of_another_run(checkpoint, config)
    if wrong:
        raise CheckpointError(f"{saved[-1]}: {wrong}; {way_out(saved[-1])}")
    if checkpoint.facts.get("beneath", beneath) != beneath:
        raise CheckpointError(
            f"{folder / RRDB_FILE}: not the RRDB that {saved[-1].name} was trained on; restore it, "
            f"or delete it, and the same command takes it from {MODEL_FILE}"
        )
    load_into(network, checkpoint.part("network"), str(saved[-1]))
    moments: dict[int, dict[str, Tensor]] = {}
    for key in MOMENTS:
        part = checkpoint.part(f"adam.{key}")
        for index, (parameter, own_value) in enumerate(network.named_parameters()):
            found = part[parameter]
            moments.setdefault(index, {})[key] = found if key == "step" else _like(own_value, found)
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": moments})
    own = network.state_dict()
    ema = {key: _like(own[key], value) for key, value in checkpoint.part("ema").items()}
    for key, counter in checkpoint.part("guard").items():
        setattr(guard, key, counter.to(guard.scale.device))
    return State(checkpoint.facts["step"], ema, guard, checkpoint.facts.get("best"))


def _strange(checkpoint: Checkpoint, name: str, file: Path) -> str:
    """What contradicts itself in a state that has the right tensors: the digest cannot tell where there is none. Empty: nothing."""
    facts, batch = checkpoint.facts, config_of(checkpoint.config).train.batch
    step: Any = facts.get("step")
    best = facts.get("best")
    if facts.get("stage") != name or not whole_number(step) or file.name != _file_name(name, step):
        return f"holds step {brief(step)} of stage {brief(facts.get('stage'))}, which is not what its name says"
    if facts.get("position") != step * batch:
        return f"expected sample position {step * batch} ({step} steps of {batch}), got {brief(facts.get('position'))}"
    if best is not None and not isinstance(best, float | int):
        return f"expected a number as the best figure, got {brief(best)}"
    check_finite(checkpoint.tensors, str(file), way_out(file))
    counts = checkpoint.part("guard") | {f"adam.step.{key}": value for key, value in checkpoint.part("adam.step").items()}
    bad = [key for key, value in counts.items() if key != "scale" and not 0 <= float(value) <= step]
    bad += [key for key, value in checkpoint.part("adam.exp_avg_sq").items() if bool((value < 0).any())]
    bad += ["scale"] if float(counts["scale"]) <= 0 else []
    return f"{bad[0]} is out of range" if bad else ""


def _of_another_run(checkpoint: Checkpoint, config: Mapping[str, Any]) -> str:
    refused = changes(begun_with(checkpoint.config), dict(config))[1]
    return f"saved by a run of other settings ({'; '.join(refused[:3])})" if refused else ""


def _like(own: Tensor, value: Tensor) -> Tensor:
    """A value with the device and memory format of the tensor that it belongs to (the fused kernel walks both in memory order)."""
    return torch.empty_like(own.detach()).copy_(value)
