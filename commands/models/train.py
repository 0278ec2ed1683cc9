"""`samdiff train`: stores to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common import Device, Threads, print_result, print_status


def train(
    shards: Annotated[list[str], typer.Option(help="A store, a folder or a URL; may be given several times.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/STORE-PRESET.")] = None,
    preset: Annotated[str, typer.Option(help="tiny, small or paper: sizes and steps.")] = "paper",
    modulation: Annotated[
        str | None, typer.Option(help="How E enters the process: official, none, paper or joint [official].")
    ] = None,
    e_mean: Annotated[str | None, typer.Option(help="Mean that codes a mask: mask or image [mask].")] = None,
    loss: Annotated[str | None, typer.Option(help="l1 or l2 [l1].")] = None,
    rrdb: Annotated[Path | None, typer.Option(help="Take the RRDB of this checkpoint in place of stage one.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Begin both stages from a model's weights (fine-tuning): a file, a run, or `shipped` [random weights]."
        ),
    ] = None,
    rrdb_steps: Annotated[int | None, typer.Option(min=0, help="Steps of stage one [the preset's].")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Steps of stage two [the preset's].")] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of pictures (or with HR/ and LRxS/) to score at each validation; may be repeated."),
    ] = None,
    scale: Annotated[int | None, typer.Option(min=1, help="Refuse a store of another scale.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, over the preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over everything; may be repeated.")
    ] = None,
    check_shards: Annotated[
        bool, typer.Option(help="Compare each shard with its recorded SHA-256 when it is first read.")
    ] = True,
    print_config: Annotated[bool, typer.Option(help="Only print the resolved settings.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Stores -> a trained model. The same command resumes an interrupted run; several processes: `torchrun … -m samdiff.cli train …`."""
    import json

    from ...errors import ConfigError, StoreError
    from ...model.config import load_config
    from ...model.training.distributed import join
    from ...model.training.run import train as run
    from ...model.training.run_dir import threads_to_resume
    from ...model.training.validation import read_benchmark
    from ...pipeline.download.benchmarks import find_benchmark
    from ...pipeline.stream.dataset import open_to_stream
    from ...runtime import pick_device, setup_process, usable_cores, user_path

    target = None if out is None else user_path(out, "--out")
    if target is None:
        target = Path("runs") / f"{shards[0].rstrip('/').split('/')[-1].removesuffix('.zarr')}-{preset}"
    setup_process(threads or threads_to_resume(target, usable_cores()))  # as many as before, to the bit
    if rrdb is not None and rrdb_steps is not None:
        raise ConfigError(
            f"--rrdb {rrdb} takes the place of stage one, so --rrdb-steps {rrdb_steps} would do nothing; leave one out"
        )
    named: dict[str, object] = {"diffusion.modulation": modulation, "diffusion.e_mean": e_mean, "diffusion.loss": loss}
    named |= {"train.rrdb_steps": rrdb_steps, "train.steps": steps}
    sets = [*(set_ or []), *(f"{name}={value}" for name, value in named.items() if value is not None)]
    stores = [open_to_stream(path, check_shards=check_shards) for path in shards]
    settings = load_config(preset, config, sets, scale=stores[0].scale)
    if print_config:
        print_result(*json.dumps(settings.as_dict(), indent=2).splitlines())
        return
    if scale is not None and scale != stores[0].scale:
        raise StoreError(f"{shards[0]}: holds x{stores[0].scale}, x{scale} was asked for; prepare a store with --scale {scale}")
    with join(pick_device(device)) as ranks:
        benchmarks = [read_benchmark(find_benchmark(folder), settings.scale) for folder in benchmark or []]
        model = run(stores, target, settings, ranks.device, rrdb, print_status, benchmarks, ranks, start)
    if ranks.is_main:
        print_status(f"done: {model}; use it with `samdiff infer PICTURE --checkpoint {target}`")
