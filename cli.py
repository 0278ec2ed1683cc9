"""The command-line application. The commands are in `commands/`, one file per theme.

Exit status: 0 success; 1 failure; 2 wrong usage; 3 success, but some inputs or metrics were skipped (each is listed with its reason).
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .commands import demo
from .commands.common import Quiet, Verbose, print_error, print_result, set_verbosity, with_verbosity
from .commands.data import fetch, masks, prepare, report, store
from .commands.examples import epilog_of
from .commands.interruption import after_interrupt
from .commands.models import checkpoints, distill, evaluate, export, infer, study, train
from .commands.panels import PanelCommand
from .commands.terminal import VisibleFormatter, visible_output, visible_usage_errors
from .errors import ConfigError, SamdiffError
from .runtime import wait_without_spinning

WRONG_USAGE, INTERRUPTED = 2, 130  # exit statuses


class _Commands(TyperGroup):
    """All commands. Usage errors repeat the arguments with control characters escaped."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        with visible_usage_errors():
            return super().make_context(*arguments, **more)

    def invoke(self, ctx: Any) -> Any:
        with visible_usage_errors():
            return super().invoke(ctx)


app = typer.Typer(
    name="samdiff",
    cls=_Commands,
    help="Diffusion super-resolution trained with the masks of Segment Anything, which runs once per data set and never at inference.",
    no_args_is_help=True,
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
    distill.distill,
    infer.infer,
    evaluate.evaluate,
    evaluate.compare,
    study.study,
    report.report,
    export.export_model,
    fetch.download,
    fetch.weights,
    checkpoints.import_checkpoint,
    checkpoints.publish,
    demo.demo,
):
    name = command.__name__.replace("_", "-")
    app.command(name, cls=PanelCommand, epilog=epilog_of(name))(with_verbosity(command))


def _version(requested: bool) -> None:
    if requested:
        print_result(f"samdiff {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Verbose = 0,
    quiet: Quiet = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged tags and profiles, which samdiff reports itself
    set_verbosity(verbose, quiet)


def main(arguments: list[str] | None = None) -> object:
    """Entry point of the `samdiff` script: one line for an error that the user can correct, a traceback for a bug.

    Control characters in the output are escaped. If stdout is closed (`| head`), the process ends without a message.
    """
    with visible_output():
        return _run(arguments)


def _run(arguments: list[str] | None) -> object:
    status = 1
    wait_without_spinning()
    try:
        return app(arguments)
    except SystemExit as leaving:  # how the command-line library exits, also for Ctrl-C
        if leaving.code == INTERRUPTED:
            words = sys.argv[1:] if arguments is None else arguments
            print_error(f"samdiff: interrupted; the same command {after_interrupt(words)}")
        raise
    except SamdiffError as error:
        print_error(f"samdiff: {error}")
        status = WRONG_USAGE if isinstance(error, ConfigError) else 1
    except OSError as error:
        print_error(f"samdiff: {error.filename or 'input/output'}: {error.strerror or error}")
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":
            raise  # a bug
        print_error(f"samdiff: {error.object!r}: cannot be a file name in the encoding {error.encoding}; set PYTHONUTF8=1")
    sys.exit(status)


if __name__ == "__main__":
    main()
