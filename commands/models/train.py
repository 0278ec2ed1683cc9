"""`samdiff train`: trains a model on stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...model.config import PRESETS, RunConfig, load_config, preset_layer, taken_from
from ...pipeline.scientific.sample_format import RGB8, SampleFormat
from ..common import COMMON, RUN, Device, MoreStores, Stores, Threads, print_result, print_status, required
from ..options import Chosen, configured, renamed

_OF_PRESETS = tuple((section, key) for name in PRESETS for section, keys in preset_layer(name).items() for key in keys)


@renamed("--start")
@configured(RunConfig, dotted=True, varying=_OF_PRESETS, without=("student",))
def train(
    chosen: Chosen[RunConfig],
    stores: Stores = None,
    more_stores: MoreStores = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", rich_help_panel=COMMON, show_default="runs/STORE-PRESET", help="The run's folder."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=COMMON,
            metavar=f"[{'|'.join(PRESETS)}]",
            show_default="the preset of --init-from, else paper",
            autocompletion=lambda incomplete: [name for name in PRESETS if name.startswith(incomplete)],
            help="Network sizes and training steps.",
        ),
    ] = None,
    rrdb: Annotated[
        Path | None, typer.Option(rich_help_panel=COMMON, help="Checkpoint whose RRDB is used instead of stage one.")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            "--init-from",
            "--start",
            rich_help_panel=COMMON,
            show_default="random weights",
            help="Model to fine-tune: a file, a run's folder, or `shipped`. Both stages start from its weights, with its networks, process and loss.",
        ),
    ] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=COMMON,
            help="Benchmark for validation: a name, a folder with HR/ and LRx4/, or a folder of HR images; may be repeated.",
        ),
    ] = None,
    scale: Annotated[int | None, typer.Option(min=1, rich_help_panel=RUN, help="Fail if the store has another scale.")] = None,
    check_shards: Annotated[
        bool,
        typer.Option(rich_help_panel=RUN, help="Verify the SHA-256 of each shard when it is first read."),
    ] = True,
    print_schema: Annotated[
        bool,
        typer.Option("--print-schema", rich_help_panel=RUN, help="Print the JSON schema of --config files and exit."),
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Train a model on stores.

    The same command resumes an interrupted run. Several processes: `torchrun … -m samdiff.cli train …`.
    """
    import json

    from ...errors import ConfigError, StoreError

    if print_schema:
        from ...settings import to_schema

        print_result(*json.dumps(to_schema(RunConfig, "samdiff train --config"), indent=2).splitlines())
        return
    shards = [*(stores or []), *(more_stores or [])]
    if chosen.only_print and not shards:
        chosen.show(_settings(chosen, preset, _model(chosen, preset, init_from), scale=scale or 4))
    required("train", STORE=shards)

    from ...model.training.distributed import join
    from ...model.training.run import train as run
    from ...model.training.run_dir import threads_to_resume
    from ...model.training.validation import read_benchmark
    from ...pipeline.download.benchmarks import find_benchmark
    from ...pipeline.stream.dataset import open_to_stream
    from ...runtime import pick_device, setup_process, usable_cores, user_path

    if rrdb is not None and "rrdb_steps" in chosen.named.get("train", {}):
        raise ConfigError(f"--rrdb {rrdb} replaces stage one, so --rrdb-steps has no effect; leave one out")
    opened = [open_to_stream(path, check_shards=check_shards) for path in shards]
    tuned = _model(chosen, preset, init_from)
    settings = _settings(chosen, preset, tuned, scale=opened[0].scale, samples=opened[0].samples)
    if settings.is_student:
        raise ConfigError("student.layers: a student is trained by `samdiff distill`; leave the section [student] out")
    chosen.show(settings)
    name = shards[0].rstrip("/").split("/")[-1].removesuffix(".zarr")
    target = Path("runs") / f"{name}-{settings.preset}" if out is None else user_path(out, "--out")
    setup_process(threads or threads_to_resume(target, usable_cores()))  # the same number as before, for bit-identical results
    if scale is not None and scale != opened[0].scale:
        raise StoreError(f"{shards[0]}: holds x{opened[0].scale}, x{scale} was requested; prepare a store with --scale {scale}")
    if settings.scale != opened[0].scale:
        raise StoreError(f"{shards[0]}: holds x{opened[0].scale}, but --config has scale = {settings.scale}; remove it there")
    with join(pick_device(device)) as ranks:
        if ranks.is_main and tuned is not None:
            print_status(f"as in {init_from}: preset {settings.preset}, {taken_from(tuned, settings)}")
        elif ranks.is_main and init_from is not None:
            print_status(
                f"from {init_from}: only weights, because a preset is named; [diffusion] and [loss] are those of the preset"
            )
        benchmarks = [read_benchmark(find_benchmark(folder), settings.scale) for folder in benchmark or []]
        model = run(
            opened,
            target,
            settings,
            device=ranks.device,
            rrdb=rrdb,
            report=print_status,
            benchmarks=benchmarks,
            ranks=ranks,
            start=init_from,
        )
    if ranks.is_main:
        print_status(f"done: {model}; use it with `samdiff infer IMAGE --checkpoint {target}`")


def _settings(
    chosen: Chosen[RunConfig], preset: str | None, model: RunConfig | None, *, scale: int, samples: SampleFormat = RGB8
) -> RunConfig:
    """See `load_config`."""
    return load_config(
        preset,
        chosen.file,
        chosen.sets,
        scale=scale,
        bands=samples.count,
        rgb8=samples.is_rgb8,
        named=chosen.named,
        model=model,
    )


def _model(chosen: Chosen[RunConfig], preset: str | None, init_from: Path | None) -> RunConfig | None:
    """The settings of the model to fine-tune; None if a preset is named, since then none of them is taken."""
    if init_from is None or _preset(chosen, preset):
        return None
    from ...model.checkpoints.format import config_in, load_checkpoint

    return config_in(load_checkpoint(init_from), str(init_from))


def _preset(chosen: Chosen[RunConfig], named: str | None) -> str:
    """The preset given by option or in a file; empty if none is given."""
    return named or chosen.layer().get("preset") or ""
