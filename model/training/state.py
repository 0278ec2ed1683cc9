"""The state of a run, saved and restored bit for bit: weights, EMA, Adam's moments, counters, position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..checkpoints.expected import MOMENTS
from ..checkpoints.format import (
    MODEL_FILE,
    RRDB_FILE,
    Checkpoint,
    check_finite,
    declared_in,
    load_checkpoint,
    load_into,
    remedy,
    save_checkpoint,
)
from ..checkpoints.plain import brief, whole_number
from ..config import config_of
from .optimizer import Guard
from .run_dir import changes, saved_settings, state_name, state_steps


@dataclass
class State:
    """The variables of training."""

    step: int
    """Steps done; the next sample's position is step x batch."""
    ema: dict[str, Tensor]
    """EMA weights by name."""
    guard: Guard
    """Counters of skipped steps, and the loss scale."""
    best: float | None = None
    """The best PSNR in validation so far."""


def states(folder: Path, name: str) -> list[Path]:
    """The saved states of a stage, oldest first. Files with other names, such as copies, are ignored."""
    return [folder / state_name(name, step) for step in state_steps(folder, name)]


def fresh(network: nn.Module, guard: Guard) -> State:
    """The state before the first step."""
    return State(0, {name: value.detach().clone() for name, value in network.state_dict().items()}, guard)


def save_state(
    name: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: State,
    folder: Path,
    config: dict[str, object],
    batch: int,
    keep: int,
    frozen_sha256: str | None = None,
) -> None:
    """Write `state-NAME-STEP.safetensors` atomically, then delete all but the last `keep` states (no other files of such names); `frozen_sha256` as in `Stage`."""
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in state.ema.items()}
    tensors |= {f"guard.{key}": value for key, value in vars(state.guard).items()}
    names = [key for key, _ in network.named_parameters()]
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{key}.{names[index]}": value for key, value in moments.items()}
    facts = {"stage": name, "step": state.step, "position": state.step * batch, "best": state.best}
    facts |= {} if frozen_sha256 is None else {"beneath": frozen_sha256}
    save_checkpoint(folder / state_name(name, state.step), Checkpoint("state", tensors, config, facts=facts))
    for old in filter(_is_state, states(folder, name)[:-keep]):
        old.unlink()


def _is_state(file: Path) -> bool:
    """Whether a file is a state of samdiff by its header; one that is not is the user's, or damaged, and is kept."""
    try:
        return declared_in(file).kind == "state"
    except CheckpointError:
        return False


def resume(
    name: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    guard: Guard,
    folder: Path,
    config: Mapping[str, object],
    frozen_sha256: str | None = None,
) -> State | None:
    """Load the newest state into network and optimiser; None if there is none. Nothing is changed unless the whole state is valid.

    Args:
        name: of the stage.
        network: gets the weights.
        optimiser: of the network's parameters; gets the moments.
        guard: gets the counters.
        folder: of the run.
        config: settings that the run saves with its states; a state with other settings is an error.
        frozen_sha256: see `Stage`; a state that was trained on other weights is an error. Not saved by version 0.1.

    Raises:
        CheckpointError: the newest state is damaged, or belongs to another run; the message says what to do.
    """
    saved = states(folder, name)
    if not saved:
        return None
    checkpoint = load_checkpoint(saved[-1], kind="state")
    wrong = _contradiction(checkpoint, name, saved[-1]) or _of_another_run(checkpoint, config)
    if wrong:
        raise CheckpointError(f"{saved[-1]}: {wrong}; {remedy(saved[-1])}")
    if checkpoint.facts.get("beneath", frozen_sha256) != frozen_sha256:
        raise CheckpointError(
            f"{folder / RRDB_FILE}: not the RRDB that {saved[-1].name} was trained on; restore it, "
            f"or delete it, and the same command takes it from {MODEL_FILE}"
        )
    load_into(network, checkpoint.part("network"), str(saved[-1]))
    moments: dict[int, dict[str, Tensor]] = {}
    for key in MOMENTS:
        part = checkpoint.part(f"adam.{key}")
        for index, (parameter, own_value) in enumerate(network.named_parameters()):
            loaded = part[parameter]
            moments.setdefault(index, {})[key] = loaded if key == "step" else _like(own_value, loaded)
    whole = optimiser.state_dict()
    optimiser.load_state_dict({**whole, "state": moments})
    own = network.state_dict()
    ema = {key: _like(own[key], value) for key, value in checkpoint.part("ema").items()}
    for key, counter in checkpoint.part("guard").items():
        setattr(guard, key, counter.to(guard.scale.device))
    return State(checkpoint.facts["step"], ema, guard, best=checkpoint.facts.get("best"))


def _contradiction(checkpoint: Checkpoint, name: str, file: Path) -> str:
    """A contradiction in a state that has the right tensors (files of version 0.1 have no digest); empty if there is none."""
    facts, batch = checkpoint.facts, config_of(checkpoint.config).train.batch
    step = facts.get("step")
    best = facts.get("best")
    if facts.get("stage") != name or not whole_number(step) or file.name != state_name(name, step):
        return f"holds step {brief(step)} of stage {brief(facts.get('stage'))}, which contradicts its name"
    if facts.get("position") != step * batch:
        return f"expected sample position {step * batch} ({step} steps of {batch}), got {brief(facts.get('position'))}"
    if best is not None and not isinstance(best, float | int):
        return f"expected a number as the best PSNR, got {brief(best)}"
    check_finite(checkpoint.tensors, str(file), remedy(file))
    counts = checkpoint.part("guard") | {f"adam.step.{key}": value for key, value in checkpoint.part("adam.step").items()}
    bad = [key for key, value in counts.items() if key != "scale" and not 0 <= float(value) <= step]
    bad += [key for key, value in checkpoint.part("adam.exp_avg_sq").items() if bool((value < 0).any())]
    bad += ["scale"] if float(counts["scale"]) <= 0 else []
    return f"{bad[0]} is out of range" if bad else ""


def _of_another_run(checkpoint: Checkpoint, config: Mapping[str, object]) -> str:
    refused = changes(saved_settings(checkpoint.config), dict(config))[1]
    return f"saved by a run with other settings ({'; '.join(refused[:3])})" if refused else ""


def _like(own: Tensor, value: Tensor) -> Tensor:
    """The value with the device and memory format of `own`, as the fused optimiser needs."""
    return torch.empty_like(own.detach()).copy_(value)
