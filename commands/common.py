"""What the commands share: options, and how they report."""

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
"""Headings of options in the help: the ones that most people need, and how the command runs."""

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
    int | None, typer.Option(min=1, rich_help_panel=RUN, show_default="as many as cores are free", help="CPU threads.")
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        rich_help_panel=RUN,
        help="No progress bars and no status lines; results, warnings and errors stay.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, rich_help_panel=RUN, help="Report more; twice for everything.", show_default=False
    ),
]


Stores = Annotated[list[str] | None, typer.Argument(metavar="STORE", help="Stores: folders or URLs (s3://…).")]
MoreStores = Annotated[
    list[str] | None,
    typer.Option("--store", "--shards", help="Another form of STORE; may be repeated.", rich_help_panel=COMMON),
]


def required(command: str, **given: object) -> None:
    """ConfigError if one of a command's inputs was not given: all may be missing together with --print-config."""
    for name, value in given.items():
        if not value:
            raise ConfigError(f"{command}: expected {name}, got none; see samdiff {command} --help")


def default_store(source: str) -> str:
    """data/NAME.zarr, NAME being the source's name without its suffixes."""
    return f"data/{Path(source).resolve().name.split('.')[0]}.zarr"


def print_status(*lines: str) -> None:
    """Lines on what happens, at once; not with `-q`. Each argument is one line, whatever is in it."""
    if not os.environ.get("SAMDIFF_QUIET"):
        print_result(*lines)


def print_result(*lines: str) -> None:
    """What the user requested. Each argument is one line, whatever is in it."""
    print(*map(printable, lines), sep="\n", flush=True)


def print_error(text: str) -> None:
    """A line on stderr; where a message of ours has several lines, the others are indented, so that no name can forge one."""
    if sys.stderr is not None:
        print(printable(text, lines=True).replace("\n", "\n  "), file=sys.stderr)


def choose_checkpoint(given: Path | None) -> Path:
    """The one that was given, or the default, which is told."""
    from ..model.checkpoints.publish import default_checkpoint

    if given is not None:
        return given
    path, why = default_checkpoint()
    print_status(f"--checkpoint {path} ({why})")
    return path


def set_verbosity(verbose: int, quiet: bool) -> None:
    """`-v` and `-q` of the whole process; `-q` of the processes that it starts, too.

    `-v` shows samdiff's own INFO; `-vv` its DEBUG, and INFO of other libraries (Dask among them); `-vvv` everything.
    """
    if verbose:
        logging.getLogger("samdiff").setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
        logging.getLogger().setLevel({1: logging.WARNING, 2: logging.INFO}.get(verbose, logging.DEBUG))
    if quiet:
        os.environ["SAMDIFF_QUIET"] = "1"


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `-q` and `-v` after its name too."""

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
    """List what was skipped, but for what the user was told already, and leave with status 3 if there was any."""
    for name, reason in skipped.items():
        if name not in reported:
            print_error(f"skipped {printable(name)}: {reason}")
    if reported:
        print_error(f"{len(reported)} skipped, each listed above with its reason")
    if skipped:
        raise typer.Exit(SKIPPED)
