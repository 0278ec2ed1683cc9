"""The state of a run, saved and found again: weights, average, Adam's moments, counters, position. Bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .checkpoint import Checkpoint, load_checkpoint, load_into, save_checkpoint
from .optim import Guard


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
    """The saved states of a stage, oldest first."""
    return sorted(folder.glob(f"state-{name}-*.safetensors"))


def steps_done(folder: Path, name: str) -> int:
    """Steps of a stage's newest saved state."""
    saved = states(folder, name)
    return int(saved[-1].stem.rpartition("-")[2]) if saved else 0


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
) -> None:
    """Write `state-NAME-STEP.safetensors` whole or not at all, then remove all but the last `keep`."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.ema.items()}
    tensors |= {f"guard.{key}": value for key, value in vars(state.guard).items()}
    names = [key for key, _ in network.named_parameters()]
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{key}.{names[index]}": value for key, value in moments.items()}
    facts = {"stage": name, "step": state.step, "position": state.step * batch, "best": state.best}
    save_checkpoint(folder / f"state-{name}-{state.step:08d}.safetensors", Checkpoint("state", tensors, config, facts))
    for old in states(folder, name)[:-keep]:
        old.unlink()


def resume(name: str, network: nn.Module, optimiser: torch.optim.Optimizer, guard: Guard, folder: Path) -> State | None:
    """Load the newest state into network and optimiser; None if there is none."""
    saved = states(folder, name)
    if not saved:
        return None
    try:
        checkpoint = load_checkpoint(saved[-1], kind="state")
        load_into(network, checkpoint.part("network"), str(saved[-1]))
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or delete it, and the run goes on from the state before it") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for key in ("step", "exp_avg", "exp_avg_sq"):
        part = checkpoint.part(f"adam.{key}")
        for index, (parameter, own_value) in enumerate(network.named_parameters()):
            if parameter in part:
                found = part[parameter]
                moments.setdefault(index, {})[key] = found if key == "step" else _like(own_value, found)
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": moments})
    own = network.state_dict()
    ema = {key: _like(own[key], value) for key, value in checkpoint.part("ema").items()}
    for key, counter in checkpoint.part("guard").items():
        setattr(guard, key, counter.to(guard.scale.device))
    return State(checkpoint.facts["step"], ema, guard, checkpoint.facts.get("best"))


def _like(own: Tensor, value: Tensor) -> Tensor:
    """A value with the device and memory format of the tensor that it belongs to (the fused kernel walks both in memory order)."""
    return torch.empty_like(own.detach()).copy_(value)
