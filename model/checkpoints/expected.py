"""The tensors that a configuration implies: names, shapes and dtypes, without allocating one. Pure.

A small file can declare tensors of any size. So the declarations of a file are compared with its configuration before its tensors are
read, and the sizes in a configuration are bounded (`config.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch

from ...errors import CheckpointError, ConfigError, printable
from ..config import ModelConfig, RunConfig, StudentConfig
from ..networks.heads import auxiliary_shapes
from ..networks.rrdb import RRDB, condition_channels
from ..networks.student import Student
from ..networks.unet import UNet

Shapes = dict[str, tuple[int, ...]]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""State of Adam for each parameter; `step` is a scalar."""
COUNTERS = ("skipped", "row", "longest", "scale", "calm")
"""The fields of `training.optimizer.Guard`, all scalars; a test compares them."""


def rrdb_shapes(config: RunConfig) -> Shapes:
    """Shapes of the RRDB, without a prefix. ConfigError for an unsupported scale."""
    return dict(_rrdb(config.model, config.scale, config.bands))


def unet_shapes(config: RunConfig) -> Shapes:
    """Shapes of the U-Net, without a prefix. ConfigError for contradicting diffusion settings."""
    d = config.diffusion
    outputs = d.build().outputs_of(config.bands)
    return dict(_unet(config.model, config.scale, outputs=outputs, bands=config.bands, scale_head=d.estimates_scale))


def student_shapes(config: RunConfig) -> Shapes:
    """Shapes of the student, without a prefix. ConfigError for settings without one, or an unsupported scale."""
    if not config.is_student:
        raise ConfigError("student.layers: expected at least 1, got 0")
    return dict(_student(config.student, config.scale))


def model_shapes(config: RunConfig, kind: str) -> Shapes:
    """Shapes of a checkpoint of kind `rrdb`, `diffusion` or `student`, with prefixes."""
    if kind == "student":
        return _under("student", student_shapes(config))
    shapes = _under("rrdb", rrdb_shapes(config))
    return shapes | _under("unet", unet_shapes(config)) if kind == "diffusion" else shapes


def state_shapes(config: RunConfig, stage: str) -> Shapes:
    """Shapes of the state of stage `rrdb`, `diffusion` or `student`: network, EMA, Adam's moments of every parameter, counters."""
    of_stage = {"rrdb": rrdb_shapes, "diffusion": unet_shapes, "student": student_shapes}
    network = of_stage[stage](config)  # all their tensors are parameters
    if config.loss.auxiliary != "none" and stage != "student":
        network |= auxiliary_shapes(config.model.rrdb_features if stage == "rrdb" else config.model.width)
    shapes = _under("network", network) | _under("ema", network)
    for moment in MOMENTS:
        shapes |= _under(f"adam.{moment}", {name: () if moment == "step" else shape for name, shape in network.items()})
    return shapes | _under("guard", dict.fromkeys(COUNTERS, ()))


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str, hint: str) -> None:
    """CheckpointError unless names and shapes are equal.

    Args:
        expected: of the configured network.
        found: in the file.
        where: beginning of the message.
        hint: end of the message: what to do.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    misshaped = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    parts = [
        f"{len(names)} {what} (such as {printable(names[0])[:80]})"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
        if names
    ]
    if parts:
        raise CheckpointError(f"{where}: the weights do not fit the configured network: {', '.join(parts)}; {hint}")


def _under(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


@lru_cache(maxsize=8)
def _rrdb(m: ModelConfig, scale: int, bands: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):  # allocates no memory, draws no random numbers
        return _of(RRDB(blocks=m.rrdb_blocks, features=m.rrdb_features, growth=m.rrdb_growth, scale=scale, bands=bands))


@lru_cache(maxsize=8)
def _unet(m: ModelConfig, scale: int, *, outputs: int, bands: int, scale_head: bool) -> Iterable[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return _of(
            UNet(
                m.width,
                m.multipliers,
                condition_channels(m.rrdb_blocks, m.rrdb_features),
                scale=scale,
                out_channels=outputs,
                in_channels=bands,
                first_scale=1.0 if scale_head else None,
            )
        )


@lru_cache(maxsize=8)
def _student(s: StudentConfig, scale: int) -> Iterable[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        return _of(Student(s.width, s.layers, scale))


def _of(network: torch.nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(value.shape)) for name, value in network.state_dict().items())
