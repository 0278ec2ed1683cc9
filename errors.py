"""Errors for people: each message says what was expected, what came, where, and what to do next.

Everything a user can cause derives from `SamdiffError` (a `ValueError`), so that the command line can print one line and a
script can catch one class. Broken invariants of our own are `assert`.
"""

from __future__ import annotations

import unicodedata

_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal obeys instead of showing (controls, direction marks, line separators) or cannot encode."""


def printable(text: object, lines: bool = False) -> str:
    """Text that is safe to print: control characters, direction marks and surrogates become escapes such as `\\x1b` and `\\udc80`.

    Everything that comes from outside (file names, notes of a store, HTTP reasons) goes through here before it is printed.

    Args:
        text: what is to be printed; `str` is called on it.
        lines: keep line feeds, for a text of our own that has several lines.
    """
    return "".join(
        character
        if (lines and character == "\n") or unicodedata.category(character) not in _INVISIBLE
        else character.encode("unicode_escape").decode()
        for character in str(text)
    )


class SamdiffError(ValueError):
    """A mistake or a missing thing that the user can put right; the message says how."""


class WeightsError(SamdiffError):
    """Weights of a segmenter could not be found, fetched, verified or loaded."""


class ImageError(SamdiffError):
    """A picture could not be read or cannot be used."""


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
