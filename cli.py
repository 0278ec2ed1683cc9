"""The command line: the application and what all commands share. The commands themselves are in `commands/`, one file per theme.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, but some inputs were skipped (each listed with its reason).
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer

from . import __version__
from .commands import checkpoints, demo, evaluate, export, fetch, infer, masks, prepare, store, train
from .commands.common import say
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

for command in (
    prepare.prepare,
    masks.masks,
    store.info,
    store.verify,
    store.export,
    train.train,
    infer.infer,
    evaluate.evaluate,
    evaluate.compare,
    export.export_model,
    fetch.download,
    fetch.weights,
    checkpoints.import_checkpoint,
    checkpoints.publish,
    demo.demo,
):
    app.command()(command)


def _version(asked: bool) -> None:
    if asked:
        say(f"samdiff {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for everything.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only, no progress bars.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    if quiet:
        os.environ["SAMDIFF_QUIET"] = "1"


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `samdiff` script: one line for an error that the user can put right, a traceback for ours."""
    try:
        return app(arguments)
    except SamdiffError as error:
        print(f"samdiff: {error}", file=sys.stderr)
    except OSError as error:
        print(f"samdiff: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # Typer makes this status of Ctrl-C
            raise
        print("samdiff: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    sys.exit(1)


if __name__ == "__main__":
    main()
