"""`--json`: one JSON document on stdout and nothing else there. Also tables: drawn with rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import typer

from ..errors import printable
from .common import RUN, print_result

Command = Callable[..., None]
F = TypeVar("F", bound=Command)

Json = Annotated[
    bool,
    typer.Option(
        "--json",
        rich_help_panel=RUN,
        help="Print one JSON document to stdout, and everything else to stderr (docs/commands.md).",
    ),
]


@dataclass
class Document:
    """What a command reports with `--json`."""

    requested: bool = False
    """Whether `--json` was given; if not, the content is not used."""
    content: dict[str, object] = field(default_factory=dict)
    """Key -> value; paths, numpy scalars, NaN and text of any kind may be in it."""


def with_json(command: F) -> F:
    """A decorator: the command accepts `--json`, and its parameter `document` is a `Document` to fill.

    The document is printed when the command ends, also with status 3 or with problems that `verify` found, but not after an error.
    Everything that is printed before goes to stderr. `--print-config` is not affected.
    """

    @functools.wraps(command)
    def run(*, as_json: bool, **own: object) -> None:
        document = Document(as_json and not getattr(own.get("chosen"), "only_print", False))
        if not document.requested:
            command(document=document, **own)
            return
        stdout = sys.stdout
        try:
            with contextlib.redirect_stdout(sys.stderr or io.StringIO()):
                command(document=document, **own)
        except typer.Exit:
            _write(stdout, document)
            raise
        _write(stdout, document)

    kind, signature = inspect.Parameter.KEYWORD_ONLY, inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != "document"]
    own.append(inspect.Parameter("as_json", kind, default=False, annotation=Json))
    run.__signature__ = signature.replace(parameters=[each.replace(kind=kind) for each in own])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in own}
    return run  # type: ignore[return-value]


def to_json(content: object) -> str:
    """JSON in ASCII that every parser reads.

    NaN and infinity become null. Bytes of file names that are not UTF-8 become text such as `\\xe9`, since a lone surrogate is not
    valid everywhere; all other names are exact.
    """
    return json.dumps(_plain(content), indent=1, allow_nan=False).replace("\x7f", "\\u007f")  # DEL, which a terminal obeys


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, plain: Sequence[str]) -> None:
    """Print a table with rich if stdout is a terminal, else the plain lines.

    Args:
        title: shown above; may be any text.
        columns: headings; empty for a table without headings.
        rows: cells; they may be any text.
        plain: the lines for files and pipes.
    """
    if sys.stdout is None or not sys.stdout.isatty():
        print_result(*plain)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # no colours: escape sequences would be printed as text (see `terminal.py`)
    console = Console(file=sys.stdout, color_system=None, force_terminal=False, highlight=False, markup=False, emoji=False)
    table = Table(box=box.ROUNDED, show_header=bool(columns))
    for column in columns or [""] * max(map(len, rows), default=1):
        table.add_column(Text(printable(column)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    print_result(title)
    if rows:
        console.print(table)
        sys.stdout.flush()


def _write(stream: object, document: Document) -> None:
    if stream is not None and document.requested:
        print(to_json(document.content), file=stream, flush=True)  # type: ignore[call-overload]


def _plain(value: object) -> object:
    """The value as JSON types."""
    if isinstance(value, Mapping):
        return {_text(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if hasattr(value, "item") and not isinstance(value, str | bytes):  # a numpy scalar; numpy itself is not imported here
        value = value.item()
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _text(value)


def _text(value: object) -> str:
    """Exact text, with bytes that are not UTF-8 as `\\xe9`."""
    return "".join(printable(each) if "\ud800" <= each <= "\udfff" else each for each in str(value))
