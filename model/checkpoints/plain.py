"""Untrusted JSON: an object of bounded size and depth, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeGuard

from ...errors import brief as brief

MOST_BYTES = 4 << 20
"""Maximum size of a configuration or of facts; samdiff writes a few kilobytes."""
_DEEPEST = 16  # ours have 3 levels


def read_object(text: str | bytes) -> dict[str, object]:
    """A JSON object.

    Raises:
        ValueError: it is not JSON, not an object, larger than `MOST_BYTES`, nested deeper than 16 levels, or not UTF-8.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text)} characters of JSON, expected at most {MOST_BYTES}")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"JSON nested deeper than {_DEEPEST} levels") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {brief(value)}")
    _check_depth(value)
    return value


def read_object_file(path: Path) -> dict[str, object]:
    """A JSON object from a regular file.

    Raises:
        ValueError: as for `read_object`, or it is a folder, a pipe or a device.
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe could block forever
        raise ValueError("expected a regular file")
    with open(path, "rb") as file:
        return read_object(file.read(MOST_BYTES + 1))


def whole_number(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of at least 0 and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"JSON nested deeper than {_DEEPEST} levels")
