"""Settings of a run: frozen dataclasses, presets as TOML files, `--set section.key=value`. An unknown key is an error.

load_config("small", file=None, sets=["train.lr=1e-4"])     preset < configuration file < --set < named options

A new setting is one field with a sentence under it; see `settings/declare.py`. Loads neither NumPy nor PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, brief, nearest
from ..settings import build, check, layers_of, merge, old_names, read_toml, section, setting
from .loss_config import LossConfig as LossConfig
from .names import (
    BASES,
    FLOW_SAMPLER,
    LABELS,
    MODULATIONS,
    PERCEPTUAL,
    PREDICTIONS,
    PROCESSES,
    RESCALE,
    SAMPLERS,
    SCALE_SOURCES,
    SCALES,
)
from .student_config import StudentConfig as StudentConfig

if TYPE_CHECKING:
    from .diffusion.modulation import Modulation
    from .diffusion.process import Process

PRESETS = ("tiny", "small", "paper")
STUDENT = "student"
"""Preset of `samdiff distill`."""
BESIDE = ("stores", "rrdb_from", "start_from", "teacher", "pixels", "sam_view", "versions", "threads")
"""Keys that are saved with the settings but are not settings."""

TAKEN = ("model", "diffusion", "loss")
"""Sections that fine-tuning takes from its model, unless a preset is named."""

# Far above any useful value. A configuration can come from an untrusted checkpoint, and must not demand unlimited memory or time.
_MOST_CHANNELS, _MOST_BLOCKS, _MOST_LEVELS, _MOST_MULTIPLIER, _MOST_THREADS = 4096, 128, 8, 64, 1024
MOST_TIMES = 10_000
"""Upper bound of T."""


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the two networks."""

    width: int = setting(64, min=4, max=_MOST_CHANNELS)  # width / 2 - 1 is a divisor in the time embedding
    """Channels of the U-Net's first level; an even number."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Channels of each level as multiples of the width."""
    rrdb_blocks: int = setting(17, min=2, max=_MOST_BLOCKS)  # every third feature map is the condition
    """Residual blocks of the RRDB."""
    rrdb_features: int = setting(64, min=1, max=_MOST_CHANNELS)
    """Channels of the RRDB."""
    rrdb_growth: int = setting(32, min=1, max=_MOST_CHANNELS)
    """Channels that each dense convolution of the RRDB adds."""
    rrdb_skip: str = setting("none", choices=("none", "bicubic"))
    """What the RRDB's output is added to: none (as published), or bicubic (the upsampled LR); bicubic for stores of other than 8-bit RGB."""

    def __post_init__(self) -> None:
        check(self)
        if self.width % 2:
            raise ConfigError(f"width: expected an even number, got {self.width}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"multipliers: expected positive numbers, got {brief(self.multipliers)}")
        if len(self.multipliers) > _MOST_LEVELS or max(self.multipliers) > _MOST_MULTIPLIER:
            raise ConfigError(
                f"multipliers: expected at most {_MOST_LEVELS} of at most {_MOST_MULTIPLIER}, got {brief(self.multipliers)}"
            )


@dataclass(frozen=True)
class DiffusionConfig:
    """The process and what the network predicts."""

    modulation: str = setting("official", choices=MODULATIONS, option="--modulation", panel="Common")
    """How E_SAM enters the diffusion process."""
    e_mean: str = setting("mask", choices=("mask", "image"), option="--e-mean", panel="Common")
    """E_SAM of a mask: mean of x_RoPE over the mask (paper), or its sum divided by the image's area (official code)."""
    loss: str = setting("l1", choices=("l1", "l2"), option="--loss", panel="Common")
    """Loss on the prediction: l1 (official code) or l2 (paper)."""
    timesteps: int = setting(100, min=2, max=MOST_TIMES)
    """T, the number of diffusion steps."""
    schedule: str = setting("cosine", choices=("cosine", "linear"))
    """Noise schedule: cosine (as the official code builds it) or linear."""
    sampling_steps: int = setting(0, min=0)
    """For modulation paper: the number of sampling steps that the model is trained for; 0: all T."""
    lr_levels: int = setting(255, choices=(255, 256))
    """Divisor of LR pixels before bicubic upsampling; imported official weights need 256."""
    process: str = setting("ddpm", choices=PROCESSES)
    """ddpm, or flow: rectified flow from the RRDB's result plus noise to HR (needs base rrdb and modulation none)."""
    base: str = setting("bicubic", choices=BASES)
    """Image to which stage two adds its residual: bicubic (the upsampled LR) or rrdb (the RRDB's result)."""
    residual_scale: float = setting(0.0, min=0, max=1000)
    """Factor of residuals. 0 (automatic): 2 for base bicubic (SRDiff), measured before stage two for base rrdb."""
    flow_sigma: float = setting(0.5, min=0, max=1000)
    """For flow: standard deviation of the noise at the start, in units of the scaled residual."""
    flow_prediction: str = setting("clean", choices=PREDICTIONS)
    """For flow: clean (the network predicts the residual) or velocity, see `diffusion/flow.py`."""
    scale_from: str = setting("none", choices=SCALE_SOURCES)
    """Local scale of the noise: none, or the RMS of the residual by masks, blur or crop; oracle is for studies. Needs modulation none."""
    scale_sigma: float = setting(4.0, min=0.5, max=64)
    """For scale_from blur: standard deviation of the Gaussian in HR pixels."""

    def __post_init__(self) -> None:
        check(self)
        if self.scale_from != "none" and self.modulation != "none":
            raise ConfigError(f"scale_from: needs modulation 'none', got {self.modulation!r}; give --modulation none")
        if self.process == "flow" and (self.modulation, self.base) != ("none", "rrdb"):
            raise ConfigError(
                "process: 'flow' needs base 'rrdb' and modulation 'none', got base "
                f"{self.base!r} and modulation {self.modulation!r}; give --modulation none --set diffusion.base=rrdb"
            )

    def build(self) -> Modulation:
        """The modulation with its schedule."""
        from .diffusion.modulation import modulation
        from .diffusion.schedule import Schedule

        schedule = Schedule.cosine(self.timesteps) if self.schedule == "cosine" else Schedule.linear(self.timesteps)
        return modulation(self.modulation, schedule, self.sampling_steps or None)

    @property
    def estimates_scale(self) -> bool:
        """Whether the network has a head that estimates the scale of the noise."""
        return self.scale_from not in ("none", "oracle")

    @property
    def rescale(self) -> float:
        """Factor of residuals; 0: not measured yet."""
        return self.residual_scale or (RESCALE if self.base == "bicubic" else 0.0)

    def build_process(self) -> Process:
        """The process. ConfigError if the scale of residuals is not measured yet."""
        from .diffusion.process import build_process

        return build_process(self.process, self.build(), self.rescale, sigma=self.flow_sigma, prediction=self.flow_prediction)


@old_names
@dataclass(frozen=True)
class TrainConfig:
    """How to train. Settings apply to both stages unless they name one."""

    rrdb_steps: int = setting(100_000, min=0, option="--rrdb-steps", panel="Common")
    """Training steps of stage one (RRDB, L1)."""
    steps: int = setting(400_000, min=0, option="--steps", panel="Common")
    """Training steps of stage two (diffusion)."""
    batch: int = setting(16, min=1)
    """Samples per step, over all processes."""
    patch: int = setting(160, min=1)
    """Side of the HR crop in pixels; a multiple of the scale and of the U-Net's total downsampling factor."""
    lr: float = setting(2e-4, above=0)
    """Adam's learning rate."""
    lr_schedule: str = setting("step", choices=("step", "cosine"))
    """step (official: halved every `halve_every` steps) or cosine (to 0 at the end of the stage)."""
    halve_every: int = setting(200_000, min=1)
    """Steps after which the learning rate is halved."""
    warmup: int = setting(0, min=0)
    """Steps of linear warm-up of the learning rate."""
    grad_clip: float = setting(10.0, min=0, was=("clip",))
    """Maximum norm of the gradient (clipping); 0: no clipping."""
    ema_decay: float = setting(0.999, min=0, below=1, was=("ema",))
    """Decay of the EMA weights, which inference uses; at most (1 + n) / (10 + n) after n steps; 0: no EMA."""
    seed: int = setting(0, min=0)
    """Seed of the initial weights, sample order, crops, time steps and noise."""
    labels: str = setting("masks", choices=LABELS)
    """Regions of training samples: masks, or shuffled, a control: the same regions, moved to a random place of the crop."""
    amp: str = setting("off", choices=("off", "bf16", "fp16"), option="--amp", panel="Run")
    """Mixed precision: off (fp32), or autocast to bf16 or fp16 (with loss scaling)."""
    grad_accum: int = setting(1, min=1, was=("accumulate",))
    """Gradient accumulation: split each batch into this many parts, for less memory and the same gradient."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about half the memory, a third more time."""
    num_workers: int = setting(2, min=0, max=_MOST_THREADS, was=("workers",))
    """Threads that prefetch batches; 0: none. Affects the speed only."""
    compile: bool = False
    """Use torch.compile for the trained network."""
    tensorboard: bool = False
    """Also log metrics and sample images to TensorBoard."""
    log_every: int = setting(100, min=1)
    """Steps between lines of the log."""
    checkpoint_every: int = setting(5_000, min=1)
    """Steps between saved states."""
    keep: int = setting(2, min=1)
    """Number of saved states to keep."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ValidateConfig:
    """Validation of the EMA weights during training."""

    every: int = setting(5_000, min=0)
    """Steps between validations; 0: never."""
    images: int = setting(8, min=0)
    """Number of last images of each store that are held out, at most a tenth; 0: none."""
    tiles: int = setting(8, min=1)
    """Number of tiles of the held-out images to validate on."""
    save_images: int = setting(2, min=0)
    """Images of each benchmark to save at each validation, in visualization/ of the run's folder; 0: none."""
    sampler: str = setting("", choices=("", *SAMPLERS, FLOW_SAMPLER), none="depends on the modulation")
    """Sampler of the validation; empty: the default of the model, and for a flow also its recommended number of steps."""
    steps: int = setting(20, min=0)
    """Sampling steps; 0: all. Not used for a flow unless `sampler` is euler, nor for modulation paper, which has its own number."""
    perceptual: str = "auto"
    """Perceptual metrics: auto (lpips and dists if their weights are in the cache), off, or names such as lpips,dists."""

    def __post_init__(self) -> None:
        check(self)
        for name in self.perceptual.split(","):
            if name not in PERCEPTUAL and self.perceptual not in ("auto", "off"):
                raise ConfigError(
                    f"perceptual: expected auto, off, or names of {', '.join(PERCEPTUAL)} with commas between, got {brief(self.perceptual)}"
                )


@dataclass(frozen=True)
class RunConfig:
    """All settings of a run, as saved with it."""

    preset: str = "paper"
    """Name of the preset."""
    scale: int = setting(4, choices=SCALES)
    """HR pixels per LR pixel; taken from the store."""
    bands: int = setting(3, min=1, max=64)
    """Bands of the images; taken from the store."""
    model: ModelConfig = section(ModelConfig, panel="Model [model]")
    diffusion: DiffusionConfig = section(DiffusionConfig, panel="Diffusion [diffusion]")
    loss: LossConfig = section(LossConfig, panel="Losses beside the main one [loss]")
    train: TrainConfig = section(TrainConfig, panel="Training [train]")
    validate: ValidateConfig = section(ValidateConfig, panel="Validation [validate]")
    student: StudentConfig = section(StudentConfig)

    def __post_init__(self) -> None:
        check(self)

    @property
    def is_student(self) -> bool:
        """Whether the run trains a student, see `student_config.py`."""
        return self.student.layers > 0

    def as_dict(self) -> dict[str, object]:
        """All settings as JSON-serialisable values."""
        return json.loads(json.dumps(asdict(self)))


def preset_layer(preset: str) -> dict[str, Any]:
    """Settings of a preset, by section. ConfigError for an unknown preset."""
    if preset not in (*PRESETS, STUDENT):
        raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, got {brief(preset)}{nearest(str(preset), PRESETS)}")
    return read_toml((Path(__file__).parent / "presets" / f"{preset}.toml").read_text(), preset)


def load_config(
    preset: str | None = None,
    file: Path | Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
    scale: int = 4,
    *,
    bands: int = 3,
    rgb8: bool = True,
    named: Mapping[str, object] | None = None,
    model: RunConfig | None = None,
) -> RunConfig:
    """The settings of a run, from the weakest layer to the strongest: preset < file < `sets` < `named`.

    Args:
        preset: its name; None: the file's, else the model's, else `paper`.
        file: TOML file as `--print-config` prints it, or its content.
        sets: `section.key=value` texts.
        scale: of the store.
        bands: of the store.
        rgb8: whether the store has 8-bit RGB, for which there are published networks; else the default of `model.rrdb_skip` is bicubic.
        named: settings by section that are given as named options.
        model: settings of the model for fine-tuning; without a preset, the sections `TAKEN` of it are used in place of the preset's.

    Raises:
        ConfigError: an unknown preset or key (the nearest known one is named), a value of another type or out of range.
    """
    layers = layers_of(file, sets, named)
    given = merge(RunConfig, layers)
    chosen = preset or given.get("preset") or (model.preset if model else "paper")
    skip: Mapping[str, object] = {} if rgb8 else {"model": {"rrdb_skip": "bicubic"}}
    bottom: list[Mapping[str, object]] = [{"scale": scale, "bands": bands}, skip, preset_layer(chosen)]
    if model is not None and not (preset or given.get("preset")):
        own = model.as_dict()
        bottom.append({name: own[name] for name in TAKEN})
    return config_from(merge(RunConfig, [*bottom, *layers, {"preset": chosen}]))


def taken_from(model: RunConfig, settings: RunConfig) -> str:
    """Which settings of a run are those of the model for fine-tuning, as text: `[model], [diffusion] and [loss] (perceptual=lpips-vgg, …)`."""
    texts = []
    for name in TAKEN:
        own, chosen = (asdict(getattr(each, name)) for each in (model, settings))
        changed = ", ".join(key for key in own if own[key] != chosen[key])
        kept = f" (perceptual={own['perceptual']})" if name == "loss" and own["perceptual"] != "none" else ""
        texts.append(f"[{name}] without {changed}" if changed else f"[{name}]{kept}")
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def config_from(values: Mapping[str, object]) -> RunConfig:
    """Settings from nested mappings (as `RunConfig.as_dict` gives them), every key and type checked."""
    return build(RunConfig, values)


def config_of(values: Mapping[str, object]) -> RunConfig:
    """Settings from a checkpoint or `config.json`, without the keys of `BESIDE`."""
    own = {key: value for key, value in values.items() if key not in BESIDE} if isinstance(values, Mapping) else values
    return config_from(own)
