"""Output to the terminal: control characters escaped, for any encoding, and no error message when the reader closes the pipe."""

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
"""How progress bars move the cursor: at the start of a write, or as a whole write."""


class VisibleStream:
    """A text stream whose control characters, direction marks and surrogates become escapes; line feeds stay.

    This is the last safeguard: messages call `printable` for names, so that line feeds in names are escaped too. On a terminal progress bars
    may return to the start of their line.
    """

    def __init__(self, stream: TextIO, ends: bool) -> None:
        """`ends`: whether the process exits (status 1) when the stream is closed by its reader; otherwise further output is dropped."""
        self._stream, self._ends = stream, ends
        with contextlib.suppress(AttributeError, io.UnsupportedOperation):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "detach"):  # they bypass `write`; the command-line library does so for ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text with control characters escaped."""
        if not isinstance(text, str):
            raise TypeError(f"expected str, got {type(text).__name__}")
        moves = _BAR.match(text) if self._stream.isatty() else None
        start = moves.end() if moves and (text[0] == "\r" or moves.end() == len(text)) else 0
        self._guarded(self._stream.write, text[:start] + printable(text[start:], lines=True))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line like `write`."""
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
            raise SystemExit(FAILED) from None  # not an OSError, which would be taken for an error of one file

    def _mute(self) -> None:
        """Discard the buffer and all further output."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class VisibleFormatter(logging.Formatter):
    """One line per record: line breaks in the message are escaped; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return printable(super().formatMessage(record))


@contextlib.contextmanager
def visible_output() -> Iterator[None]:
    """Send all output of this process, also that of other libraries, through `VisibleStream`."""
    before = sys.stdout, sys.stderr
    if not isinstance(sys.stdout, VisibleStream):
        sys.stdout, sys.stderr = (
            stream and VisibleStream(stream, ends)  # None: closed before the start
            for stream, ends in zip(before, (True, False), strict=True)
        )
    try:
        yield
    except Exception:
        sys.excepthook = _show_traceback  # called by the interpreter after the streams are restored
        raise
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()  # the interpreter's own flush would report a closed pipe
        finally:
            sys.stdout, sys.stderr = before


@contextlib.contextmanager
def visible_usage_errors() -> Iterator[None]:
    """Escape control characters in error messages of the command-line library, which repeat arguments."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if isinstance(message, str) and not type(error).__name__.startswith("NoArgs"):  # NoArgs shows the help
            error.message = printable(message)  # type: ignore[attr-defined]
        raise


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(printable("".join(traceback.format_exception(kind, error, trace)), lines=True), end="", file=sys.stderr)
