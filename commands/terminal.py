"""What reaches the terminal: every character visible, in whatever encoding it has, and a quiet end when nobody reads any more."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO

from ..errors import printable

FAILED = 1  # exit status
_BAR = re.compile(r"\r|\n*(\x1b\[A)+")
"""How progress bars move the cursor: at the start of a write, or as a whole one."""


class VisibleStream:
    """A text stream whose control characters, direction marks and surrogates become escapes; line feeds stay.

    This is the last line: what makes up a message from names has called `printable` before, so that a name's line feed is visible too.
    On a terminal progress bars may return to the start of their line.
    """

    def __init__(self, stream: TextIO, ends: bool) -> None:
        """`ends`: whether the process ends (status 1) when nobody reads the stream any more; if not, what it is given is dropped."""
        self._stream, self._ends = stream, ends
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # ways around `write`; the command-line library takes one when the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """All of it, made visible."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        moves = _BAR.match(text) if self._stream.isatty() else None
        start = moves.end() if moves and (text[0] == "\r" or moves.end() == len(text)) else 0
        self._guarded(self._stream.write, text[:start] + printable(text[start:], lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Each as `write` does."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """See `TextIO`."""
        self._guarded(self._stream.flush)

    def _guarded(self, action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self._mute()
            if not self._ends:
                return
            if not isinstance(error, BrokenPipeError):
                print(f"samdiff: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
            raise SystemExit(FAILED) from None  # no OSError: nobody may take it for the trouble of one file

    def _mute(self) -> None:
        """What is left in the buffer, and all that comes, goes nowhere."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class VisibleFormatter(logging.Formatter):
    """One line per record, whatever its message holds; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable(super().formatMessage(record))


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Inside, all that this process prints, by whatever library, goes through `VisibleStream`."""
    before = sys.stdout, sys.stderr
    if not isinstance(sys.stdout, VisibleStream):
        sys.stdout, sys.stderr = (
            stream and VisibleStream(stream, ends)  # None: closed before we started
            for stream, ends in zip(before, (True, False), strict=True)
        )
    try:
        yield
    except Exception:
        sys.excepthook = _show_traceback  # the interpreter prints it when all this is gone
        raise
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()  # the interpreter's own flush would be loud about a closed pipe
        finally:
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def visible_usage_errors() -> Iterator[None]:
    """Inside, errors of the command-line library repeat what was typed with its control characters visible."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str) and not type(error).__name__.startswith("NoArgs"):  # that one is the help
            error.message = printable(message)  # type: ignore[attr-defined]
        raise


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, trace)), lines=True), end="", file=sys.stderr)
