"""Errors for people: each message says what was expected, what came, where, and what to do next.

Everything a user can cause derives from `SamdiffError` (a `ValueError`), so that the command line can print one line and a
script can catch one class. Broken invariants of our own are `assert`.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal obeys instead of showing (controls, direction marks, line separators) or cannot encode."""


def printable(text: object, lines: bool = False) -> str:
    """Text that is safe to print: control characters, direction marks and bytes that are not UTF-8 become escapes such as `\\x1b` and `\\xe9`.

    Everything that comes from outside (file names, notes of a store, HTTP reasons) goes through here before it is printed.

    Args:
        text: what is to be printed; `str` is called on it.
        lines: keep line feeds, for a text of our own that has several lines.
    """
    return "".join(
        character if (lines and character == "\n") or unicodedata.category(character) not in _INVISIBLE else _escape(character)
        for character in str(text)
    )


def _escape(character: str) -> str:
    """A byte of a file name that is not UTF-8, which Python holds as a surrogate (PEP 383), shows as the byte."""
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else character.encode("unicode_escape").decode()


_SHOWN = 120  # characters of a value


def brief(value: object) -> str:
    """A value as it may be printed: control characters escaped, cut after 120 characters."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    shown = printable(text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown} … ({len(text)} characters)"


def nearest(name: str, known: Sequence[str]) -> str:
    """` (did you mean 'known'?)` for the known name that an unknown one resembles, or nothing."""
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class SamdiffError(ValueError):
    """A mistake or a missing thing that the user can put right; the message says how."""


class WeightsError(SamdiffError):
    """Weights of a segmenter or a metric could not be found, fetched, verified or loaded."""


class ImageError(SamdiffError):
    """An image could not be read or cannot be used."""


class ChangedError(SamdiffError):
    """A source file changed while a run was at work on it, so that what was recorded of it is no longer true."""


class StoreError(SamdiffError):
    """A store is missing, damaged, of another format, or does not fit the request."""


class BusyError(SamdiffError):
    """Another process is at work in the same place."""


class CheckpointError(SamdiffError):
    """A checkpoint is missing, damaged, or does not fit the request."""


class ConfigError(SamdiffError):
    """A setting is unknown or has a value that cannot be used."""


class PositionError(SamdiffError, IndexError):
    """An index or a position outside a sequence; an `IndexError` too, as Python's own protocols expect."""


class IndexKindError(SamdiffError, TypeError):
    """A length or an index of a kind that a sequence does not have; a `TypeError` too, as Python's own protocols expect."""


class MissingPackageError(ConfigError, ImportError):
    """A package of an extra is not installed; an `ImportError` too, as Python's own protocols expect of a module that needs it."""


def missing_package(error: ImportError, *, extra: str, what: str) -> MissingPackageError:
    """The error for people of an optional package that cannot be imported.

    Args:
        error: what the import raised.
        extra: samdiff's extra that brings the package.
        what: option or function that needs it.
    """
    name = (error.name or "").partition(".")[0] or printable(error)
    return MissingPackageError(
        f"{what}: needs the package {printable(name)}, which is not installed; pip install 'samdiff[{extra}]'"
    )
