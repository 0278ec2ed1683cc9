"""Common options of the commands, and their output."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, printable

SKIPPED = 3  # exit status
COMMON, RUN = "Common", "Run"
"""Headings of options in the help: frequent options, and options for the execution."""

_DEVICES = ("auto", "cpu", "cuda")
Device = Annotated[
    str,
    typer.Option(
        rich_help_panel=RUN,
        metavar="[auto|cpu|cuda|cuda:N]",
        autocompletion=lambda incomplete: [name for name in _DEVICES if name.startswith(incomplete)],
        help="auto: CUDA if there is a GPU, else the CPU.",
    ),
]
Threads = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=RUN, show_default="number of free cores", help="CPU threads.")
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        rich_help_panel=RUN,
        help="No progress bars or status lines, only results, warnings and errors.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, rich_help_panel=RUN, help="More output; -vv for debugging.", show_default=False
    ),
]


Checkpoint = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=COMMON,
        show_default="the newest finished run in runs/ that beats bicubic, else shipped",
        help="model.safetensors or a run's folder.",
    ),
]
Stores = Annotated[list[str] | None, typer.Argument(metavar="STORE", help="One or more stores: folders or URLs (s3://…).")]
MoreStores = Annotated[
    list[str] | None,
    typer.Option("--store", "--shards", help="A store, like the argument STORE; may be repeated.", rich_help_panel=COMMON),
]


def required(command: str, **given: object) -> None:
    """ConfigError if a required input of a command is missing. Inputs are optional for Typer, since --print-config needs none."""
    for name, value in given.items():
        if not value:
            raise ConfigError(f"{command}: expected {name}, got none; see samdiff {command} --help")


def default_store(source: str) -> str:
    """data/NAME.zarr, with the name of the source without suffixes."""
    return f"data/{Path(source).resolve().name.split('.')[0]}.zarr"


def print_status(*lines: str) -> None:
    """Print status lines, unless `-q` is given. Each argument is one line; line breaks in it are escaped."""
    if not os.environ.get("SAMDIFF_QUIET"):
        print_result(*lines)


def print_result(*lines: str) -> None:
    """Print results. Each argument is one line; line breaks in it are escaped."""
    print(*map(printable, lines), sep="\n", flush=True)


def print_error(text: str) -> None:
    """Print an error to stderr. Further lines of a message are indented, so that a file name cannot imitate a message."""
    if sys.stderr is not None:
        print(printable(text, lines=True).replace("\n", "\n  "), file=sys.stderr)


def choose_checkpoint(given: Path | None) -> Path:
    """The given checkpoint, or the default, which is reported."""
    from ..model.checkpoints.publish import default_checkpoint

    if given is not None:
        return given
    path, why = default_checkpoint()
    print_status(f"--checkpoint {path} ({why})")
    return path


def set_verbosity(verbose: int, quiet: bool) -> None:
    """Apply `-v` and `-q` to the process, and `-q` to the processes that it starts.

    `-v` shows INFO of samdiff; `-vv` DEBUG of samdiff and INFO of other libraries (such as Dask); `-vvv` everything.
    """
    if verbose:
        logging.getLogger("samdiff").setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
        logging.getLogger().setLevel({1: logging.WARNING, 2: logging.INFO}.get(verbose, logging.DEBUG))
    if quiet:
        os.environ["SAMDIFF_QUIET"] = "1"


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the command accepts `-q` and `-v` after its name."""

    @functools.wraps(command)
    def run(*, verbose: int, quiet: bool, **own: Any) -> None:
        set_verbosity(verbose, quiet)
        command(**own)

    kind, own = inspect.Parameter.KEYWORD_ONLY, inspect.signature(command, eval_str=True)
    more = [inspect.Parameter("verbose", kind, default=0, annotation=Verbose)]
    more += [inspect.Parameter("quiet", kind, default=False, annotation=Quiet)]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in run.__signature__.parameters.items()}  # type: ignore[attr-defined]
    return run


def finish(skipped: Mapping[str, str], reported: Collection[str] = ()) -> None:
    """List the skipped inputs that were not reported before, and exit with status 3 if there are any."""
    for name, reason in skipped.items():
        if name not in reported:
            print_error(f"skipped {printable(name)}: {reason}")
    if reported:
        print_error(f"{len(reported)} skipped, each listed above with its reason")
    if skipped:
        raise typer.Exit(SKIPPED)
