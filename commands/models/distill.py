"""`samdiff distill`: trains a student, a network of one step, from a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...model.config import (
    STUDENT,
    LossConfig,
    RunConfig,
    StudentConfig,
    TrainConfig,
    ValidateConfig,
    load_config,
    preset_layer,
)
from ...settings import section
from ..common import COMMON, RUN, Device, MoreStores, Threads, print_status, required
from ..options import Chosen, configured

_OF_PRESET = tuple((section, key) for section, keys in preset_layer(STUDENT).items() for key in keys)
_OF_DIFFUSION = ("auxiliary", "auxiliary_weight", "scale_weight")


@dataclass(frozen=True)
class DistillSettings:
    """All settings of `samdiff distill`."""

    student: StudentConfig = section(StudentConfig, panel="Student [student]")
    loss: LossConfig = section(LossConfig, panel="Losses beside the main one [loss]", without=_OF_DIFFUSION)
    train: TrainConfig = section(TrainConfig, panel="Training [train]", without=("rrdb_steps",))
    validate: ValidateConfig = section(ValidateConfig, panel="Validation [validate]", without=("sampler", "steps"))


@configured(DistillSettings, dotted=True, varying=_OF_PRESET)
def distill(
    chosen: Chosen[DistillSettings],
    teacher: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The teacher: a run's folder, a model's file, or `shipped`.")
    ] = None,
    store: MoreStores = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", rich_help_panel=COMMON, show_default="runs/student", help="The run's folder.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=COMMON,
            show_default="random weights",
            help="A student of the same sizes whose weights to start from.",
        ),
    ] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=COMMON,
            help="Benchmark for validation: a name, a folder with HR/ and LRx4/, or a folder of HR images; may be repeated.",
        ),
    ] = None,
    check_shards: Annotated[
        bool, typer.Option(rich_help_panel=RUN, help="Verify the SHA-256 of each shard when it is first read.")
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a one-step network from a model.

    The student is a small network. It learns HR and its teacher's images from the same stores. The same command resumes an interrupted run.
    """
    if chosen.only_print:
        chosen.show(_of(load_config(STUDENT, chosen.layer())))
    required("distill", MODEL=teacher, **{"--store": store})
    assert teacher is not None
    assert store is not None

    from ...model.distillation.run import distill as run
    from ...model.training.distributed import join
    from ...model.training.run_dir import threads_to_resume
    from ...model.training.validation import read_benchmark
    from ...pipeline.download.benchmarks import find_benchmark
    from ...pipeline.stream.dataset import open_to_stream
    from ...runtime import pick_device, setup_process, usable_cores, user_path

    opened = [open_to_stream(path, check_shards=check_shards) for path in store]
    settings = load_config(STUDENT, chosen.layer(), scale=opened[0].scale)
    target = Path("runs") / STUDENT if out is None else user_path(out, "--out")
    setup_process(threads or threads_to_resume(target, usable_cores()))
    with join(pick_device(device)) as ranks:
        model = run(
            user_path(Path(teacher), "MODEL"),
            opened,
            target,
            config=settings,
            device=ranks.device,
            report=print_status,
            benchmarks=[read_benchmark(find_benchmark(folder), settings.scale) for folder in benchmark or []],
            ranks=ranks,
            start=init_from,
        )
    if ranks.is_main:
        print_status(f"done: {model}; use it with `samdiff infer IMAGE --checkpoint {target}`")


def _of(config: RunConfig) -> DistillSettings:
    return DistillSettings(config.student, loss=config.loss, train=config.train, validate=config.validate)
