"""`--json` and `--json-lines`: JSON on stdout and nothing else there. Also tables: drawn with rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TextIO, TypeVar

import typer

from ..errors import ConfigError, SamdiffError, printable
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


JsonLines = Annotated[
    bool,
    typer.Option(
        "--json-lines",
        rich_help_panel=RUN,
        help="Like --json, but one line of JSON for each item as soon as it is finished, and one at the end.",
    ),
]


@dataclass
class Document:
    """What a command reports with `--json` or `--json-lines`."""

    requested: bool = False
    """Whether one of them was given; if not, the content is not used."""
    content: dict[str, object] = field(default_factory=dict)
    """Key -> value; paths, numpy scalars, NaN and text of any kind may be in it."""
    kind: str = ""
    """What a line of `--json-lines` is about, such as `image`."""
    lines: TextIO | None = None
    """Gets the lines of `--json-lines`; None: one document is printed at the end."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of lines by the status of their items."""

    def emit(self, item: Mapping[str, object]) -> None:
        """Print one finished item as a line, with `--json-lines` only. In `content` the same item belongs to the list."""
        if self.lines is not None:
            self.counts[str(item.get("status", "done"))] += 1
            _print(self.lines, to_json({"type": self.kind, **item}, indent=None))


def with_json(command: F) -> F:
    """A decorator: the command accepts `--json`, and its parameter `document` is a `Document` to fill.

    The document is printed when the command ends, also with status 3 or with problems that `verify` found, but not after an error.
    Everything that is printed before goes to stderr. `--print-config` is not affected.
    """

    @functools.wraps(command)
    def run(*, as_json: bool, **own: object) -> None:
        _run(command, Document(as_json), own)

    return _signed(run, command, as_json=Json)


def with_json_lines(kind: str, *, items: str) -> Callable[[F], F]:
    """A decorator like `with_json`, for a command that also accepts `--json-lines` and calls `Document.emit` for each finished item.

    The lines are JSON objects with the key `type`: `kind` for an item; `end` for the last, with the rest of the document's content;
    `error` instead of `end` after an error.

    Args:
        kind: what an item is, such as `image`.
        items: key of the list of items in the document; the last line leaves it out.
    """

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*, as_json: bool, json_lines: bool, **own: object) -> None:
            if as_json and json_lines:
                raise ConfigError("--json-lines: cannot be combined with --json; leave one out")
            _run(
                command, Document(as_json or json_lines, kind=kind, lines=sys.stdout if json_lines else None), own, items=items
            )

        return _signed(run, command, as_json=Json, json_lines=JsonLines)

    return decorate


def _run(command: Command, document: Document, own: Mapping[str, object], *, items: str = "") -> None:
    """Run a command, with its output on stderr if a document was requested, and print the document."""
    if getattr(own.get("chosen"), "only_print", False):
        document.requested, document.lines = False, None
    if not document.requested:
        command(document=document, **own)
        return
    stdout, begun = sys.stdout, time.monotonic()
    try:
        with contextlib.redirect_stdout(sys.stderr or io.StringIO()):
            command(document=document, **own)
    except typer.Exit:
        _finish(stdout, document, seconds=time.monotonic() - begun, items=items)
        raise
    except (SamdiffError, OSError) as error:
        if document.lines is not None:
            _print(stdout, to_json({"type": "error", "reason": str(error)}, indent=None))
        raise
    _finish(stdout, document, seconds=time.monotonic() - begun, items=items)


def _finish(stdout: TextIO | None, document: Document, *, seconds: float, items: str) -> None:
    """Print the document, or the last line."""
    if document.lines is not None:
        rest = {key: value for key, value in document.content.items() if key != items}
        last = {"type": "end", "counts": document.counts, "elapsed_seconds": round(seconds, 3), **rest}
        _print(stdout, to_json(last, indent=None))
    elif document.requested:
        _print(stdout, to_json(document.content))


def _signed(run: Callable[..., None], command: F, **options: object) -> F:
    """`run` with the parameters of `command` but `document`, and with flags."""
    kind, signature = inspect.Parameter.KEYWORD_ONLY, inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != "document"]
    own += [inspect.Parameter(name, kind, default=False, annotation=option) for name, option in options.items()]
    run.__signature__ = signature.replace(parameters=[each.replace(kind=kind) for each in own])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in own}
    return run  # type: ignore[return-value]


def to_json(content: object, indent: int | None = 1) -> str:
    """JSON in ASCII that every parser reads; one line if `indent` is None.

    NaN and infinity become null. Bytes of file names that are not UTF-8 become text such as `\\xe9`, since a lone surrogate is not
    valid everywhere; all other names are exact.
    """
    return json.dumps(_plain(content), indent=indent, allow_nan=False).replace("\x7f", "\\u007f")  # DEL, which a terminal obeys


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


def _print(stream: TextIO | None, text: str) -> None:
    if stream is not None:
        print(text, file=stream, flush=True)


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
