"""Settings of a run: frozen dataclasses, presets as TOML files, `--set section.key=value`. An unknown key is an error.

load_config("small", file=None, sets=["train.lr=1e-4"])     preset < configuration file < --set
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ConfigError
from .bounds import at_least, at_most, nearest, one_of
from .checkpoints.plain import brief
from .diffusion.flow import PREDICTIONS
from .diffusion.modulation import MODULATIONS, Modulation, modulation
from .diffusion.process import BASES, PROCESSES, Process, build_process, check_parts
from .diffusion.residual import RESCALE
from .diffusion.schedule import Schedule
from .diffusion.settings import LossConfig
from .networks.rrdb import SCALES

PRESETS = ("tiny", "small", "paper")
BESIDE = ("stores", "rrdb_from", "start_from", "versions", "threads")
"""What is saved with the settings but is none."""

# Far above what anybody trains. A configuration can come from a stranger's checkpoint, and must not ask for any memory or time.
_MOST_CHANNELS, _MOST_BLOCKS, _MOST_LEVELS, _MOST_MULTIPLIER, _MOST_THREADS = 4096, 128, 8, 64, 1024
_LONGEST = 1000  # list of settings
PERCEPTUAL = ("lpips", "lpips-vgg", "dists")
"""The perceptual metrics of `losses.perceptual`, by name."""
MOST_TIMES = 10_000
"""T at most."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the two networks."""

    width: int = 64
    """Channels of the U-Net's first level."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Channels of each level as multiples of the width."""
    rrdb_blocks: int = 17
    """Residual blocks of the RRDB."""
    rrdb_features: int = 64
    """Channels of the RRDB."""
    rrdb_growth: int = 32
    """Channels that each dense convolution of the RRDB adds."""

    def __post_init__(self) -> None:
        at_least(self, 1, "rrdb_blocks", "rrdb_features", "rrdb_growth")
        at_least(self, 4, "width")  # its half less one divides in the time's embedding
        at_most(self, _MOST_CHANNELS, "width", "rrdb_features", "rrdb_growth")
        at_most(self, _MOST_BLOCKS, "rrdb_blocks")
        if self.width % 2 or not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(
                f"model: expected an even width and positive multipliers, got {self.width} and {brief(self.multipliers)}"
            )
        if len(self.multipliers) > _MOST_LEVELS or max(self.multipliers) > _MOST_MULTIPLIER:
            raise ConfigError(
                f"model.multipliers: expected at most {_MOST_LEVELS} of at most {_MOST_MULTIPLIER}, got {brief(self.multipliers)}"
            )
        if self.rrdb_blocks < 2:
            raise ConfigError(
                f"model.rrdb_blocks: expected at least 2 (every third feature map is the condition), got {self.rrdb_blocks}"
            )


@dataclass(frozen=True)
class DiffusionConfig:
    """The process and what the network predicts."""

    modulation: str = "official"
    """How E enters the process: none, official, paper or joint."""
    e_mean: str = "mask"
    """The mean that codes a mask: over the mask (paper) or over the image (official code)."""
    loss: str = "l1"
    """l1 (official code) or l2 (paper)."""
    timesteps: int = 100
    """T."""
    schedule: str = "cosine"
    """cosine (as the official code builds it) or linear."""
    sampling_steps: int = 0
    """For `paper`: the number of sampling steps that it is trained for; 0: all T."""
    lr_levels: int = 255
    """What LR is divided by before its bicubic enlargement: 255; imported official weights know 256."""
    process: str = "ddpm"
    """ddpm, or flow: a straight flow from the RRDB's image with noise to HR (needs base rrdb and modulation none)."""
    base: str = "bicubic"
    """What residuals refer to: bicubic (the enlarged LR) or rrdb (the RRDB's image)."""
    residual_scale: float = 0.0
    """What residuals are multiplied by. 0: 2 for bicubic (SRDiff); for rrdb it is measured when stage two begins, and saved."""
    flow_sigma: float = 0.5
    """For `flow`: standard deviation of the noise at the start, in units of the scaled residual."""
    flow_prediction: str = "clean"
    """For `flow`: clean (the network predicts the residual) or velocity, see `flow.py`."""

    def __post_init__(self) -> None:
        one_of(self, "modulation", MODULATIONS)
        one_of(self, "e_mean", ("mask", "image"))
        one_of(self, "loss", ("l1", "l2"))
        one_of(self, "schedule", ("cosine", "linear"))
        at_least(self, 2, "timesteps")
        at_most(self, MOST_TIMES, "timesteps")
        at_least(self, 0, "sampling_steps", "residual_scale", "flow_sigma")
        at_most(self, 1000, "residual_scale", "flow_sigma")
        for name, known in (("process", PROCESSES), ("base", BASES), ("flow_prediction", PREDICTIONS)):
            one_of(self, name, known)
        check_parts(self.process, self.base, self.modulation)
        if self.lr_levels not in (255, 256):
            raise ConfigError(f"diffusion.lr_levels: expected 255 or 256, got {self.lr_levels}")

    def build(self) -> Modulation:
        """The modulation with its schedule."""
        schedule = Schedule.cosine(self.timesteps) if self.schedule == "cosine" else Schedule.linear(self.timesteps)
        return modulation(self.modulation, schedule, self.sampling_steps or None)

    @property
    def rescale(self) -> float:
        """What residuals are multiplied by; 0: to be measured."""
        return self.residual_scale or (RESCALE if self.base == "bicubic" else 0.0)

    def build_process(self) -> Process:
        """The process. ConfigError if the residual's scale is not known yet."""
        return build_process(self.process, self.build(), self.rescale, sigma=self.flow_sigma, prediction=self.flow_prediction)


@dataclass(frozen=True)
class TrainConfig:
    """How to train; both stages share what is not named after one."""

    rrdb_steps: int = 100_000
    """Steps of stage one (RRDB, L1)."""
    steps: int = 400_000
    """Steps of stage two (diffusion)."""
    batch: int = 16
    """Samples per step, over all processes."""
    patch: int = 160
    """HR crop in pixels, a multiple of the scale and of the U-Net's coarsest pixel."""
    lr: float = 2e-4
    """Adam's learning rate."""
    lr_schedule: str = "step"
    """step (official: halved every `halve_every` steps) or cosine (to 0 at the end of the stage)."""
    halve_every: int = 200_000
    """Steps after which the rate is halved."""
    warmup: int = 0
    """Steps of linear warm-up."""
    clip: float = 10.0
    """Bound on the gradient's norm; 0: none."""
    ema: float = 0.999
    """Decay of the weights' average, which is what inference uses, after a warm-up of (1 + n) / (10 + n); 0: none."""
    seed: int = 0
    """Of the initial weights, the order, the crops, t and the noise."""
    amp: str = "off"
    """off (fp32), or autocast to bf16 or fp16 (with a scaled loss)."""
    accumulate: int = 1
    """Pieces that a batch is computed in, one after the other: less memory, the same gradient."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: about half the memory, a third more time."""
    workers: int = 2
    """Threads that make batches ahead of their use; 0: none. Changes nothing but the speed."""
    compile: bool = False
    """torch.compile the trained network."""
    tensorboard: bool = False
    """Write curves and sample pictures for TensorBoard too."""
    log_every: int = 100
    """Steps between lines of the log."""
    checkpoint_every: int = 5_000
    """Steps between saved states."""
    keep: int = 2
    """Saved states that are kept."""

    def __post_init__(self) -> None:
        at_least(self, 0, "rrdb_steps", "steps", "warmup", "clip", "ema", "seed", "workers")
        at_least(self, 1, "batch", "patch", "halve_every", "log_every", "checkpoint_every", "keep", "accumulate")
        at_most(self, _MOST_THREADS, "workers")
        one_of(self, "amp", ("off", "bf16", "fp16"))
        one_of(self, "lr_schedule", ("step", "cosine"))
        if self.lr <= 0 or self.ema >= 1:
            raise ConfigError(f"train: expected lr above 0 and ema below 1, got {self.lr} and {self.ema}")


@dataclass(frozen=True)
class ValidateConfig:
    """How the averaged weights are looked at while training."""

    every: int = 5_000
    """Steps between looks; 0: never."""
    images: int = 8
    """Photographs at the end of each store that training never sees, at most a tenth of them; 0: none."""
    tiles: int = 8
    """Tiles of them that are scored."""
    sampler: str = ""
    """See `sampler.SAMPLERS`; empty: the one that fits the modulation."""
    steps: int = 20
    """Of the sampler; 0: all. `paper` always takes the steps that it is trained for."""
    perceptual: str = "auto"
    """Perceptual metrics beside PSNR and SSIM: auto (lpips and dists where their weights are in the cache), off, or names such as lpips,dists."""

    def __post_init__(self) -> None:
        at_least(self, 0, "every", "images", "steps")
        at_least(self, 1, "tiles")
        for name in self.perceptual.split(","):
            if name not in PERCEPTUAL and self.perceptual not in ("auto", "off"):
                raise ConfigError(
                    f"validate.perceptual: expected auto, off, or names of {', '.join(PERCEPTUAL)} with commas between, got {brief(self.perceptual)}"
                )


@dataclass(frozen=True)
class RunConfig:
    """Everything about a run, as saved with it."""

    preset: str = "paper"
    """The preset that it began from."""
    scale: int = 4
    """HR pixels per LR pixel; taken from the store."""
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)

    def __post_init__(self) -> None:
        one_of(self, "scale", SCALES)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, every setting resolved."""
        return json.loads(json.dumps(asdict(self)))


def load_config(preset: str = "paper", file: Path | None = None, sets: Sequence[str] = (), scale: int = 4) -> RunConfig:
    """A run's settings: the preset, then a TOML file, then `section.key=value` texts.

    Raises:
        ConfigError: an unknown preset or key (the nearest known one is named), a value of another type or out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}{nearest(preset, PRESETS)}")
    layers = [_read(files(__package__).joinpath(f"presets/{preset}.toml").read_text(), preset)]
    if file is not None:
        try:
            layers.append(_read(file.read_text(), str(file)))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); give a TOML file") from error
    layers.append(_parse_sets(sets))
    merged: dict[str, Any] = {"preset": preset, "scale": scale}
    for layer in layers:
        for section, values in layer.items():
            merged[section] = {**merged.get(section, {}), **values} if isinstance(values, Mapping) else values
    return config_from(merged)


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """Settings from nested mappings (as `RunConfig.as_dict` gives them), every key and type checked."""
    return _build(RunConfig, values, "")


def config_of(values: Mapping[str, Any]) -> RunConfig:
    """Settings as a checkpoint or `config.json` holds them, what is saved beside them left out."""
    own = {key: value for key, value in values.items() if key not in BESIDE} if isinstance(values, Mapping) else values
    return config_from(own)


def _read(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid TOML ({error})") from error


def _parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot):
            raise ConfigError(f"--set: expected section.key=value, such as train.lr=1e-4, got {text!r}")
        try:
            parsed = tomllib.loads(f"x = {value}")["x"]
        except (tomllib.TOMLDecodeError, RecursionError):
            parsed = value.strip()  # a bare word
        layer.setdefault(section, {})[key] = parsed
    return layer


def _build(kind: type, values: Mapping[str, Any], prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix or 'settings'}: expected settings by name, got {brief(values)}")
    known = get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"unknown setting {prefix}{brief(key)[1:-1]}{nearest(key, list(known))}; known: {', '.join(known)}"
            )
        arguments[key] = _convert(known[key], value, f"{prefix}{key}")
    return kind(**arguments)


def _convert(kind: Any, value: Any, name: str) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{name}: expected a section [{name}] with keys {', '.join(f.name for f in fields(kind))}, got {brief(value)}"
            )
        return _build(kind, value, f"{name}.")
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name}: expected a list such as [1, 2, 3], got {brief(value)}")
        if len(value) > _LONGEST:
            raise ConfigError(f"{name}: expected a short list such as [1, 2, 3], got {len(value)} entries")
        return tuple(_convert(get_args(kind)[0], item, name) for item in value)
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ConfigError(f"{name}: expected a number below 2^63, got one of {value.bit_length()} bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite number, got {value}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {brief(value)}")
    return value
