"""The command line: the application and what all commands share. The commands themselves are in `commands/`, one file per theme.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, but some inputs or figures were skipped (each listed with its reason).
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from . import __version__
from .commands import checkpoints, demo, evaluate, export, fetch, infer, masks, prepare, store, train
from .commands.common import Quiet, Verbose, set_talk, show, with_talk
from .errors import ConfigError, SamdiffError
from .runtime import wait_without_spinning

WRONG_USAGE, INTERRUPTED = 2, 130  # exit statuses

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
    app.command()(with_talk(command))


def _version(asked: bool) -> None:
    if asked:
        show(f"samdiff {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    set_talk(verbose, quiet)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `samdiff` script: one line for an error that the user can put right, a traceback for ours."""
    status = 1
    wait_without_spinning()
    try:
        return app(arguments)
    except SystemExit as leaving:  # the command-line library's own way of ending, also for Ctrl-C
        if leaving.code == INTERRUPTED:
            print("samdiff: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    except SamdiffError as error:
        print(f"samdiff: {error}", file=sys.stderr)
        status = WRONG_USAGE if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"samdiff: {error.filename or 'input/output'}: {error.strerror or error}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
