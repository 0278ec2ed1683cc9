"""JSON from outside: an object of a bounded size and depth, or one error that says what it is instead. Nothing about settings here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from ...errors import brief as brief

MOST_BYTES = 4 << 20
"""Of a configuration or of facts; those that we write have a few kilobytes."""
_DEEPEST = 16  # ours have 3 levels


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is no JSON, no object, larger than `MOST_BYTES`, nested deeper than 16 levels, or not UTF-8.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text)} characters of JSON, expected at most {MOST_BYTES}")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"JSON nested deeper than {_DEEPEST} levels") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {brief(found)}")
    _check_depth(found)
    return found


def read_object_file(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file.

    Raises:
        ValueError: as `read_object`, or it is a folder, a pipe or a device.
        OSError: it cannot be read.
    """
    if not path.is_file():  # a pipe would block for ever
        raise ValueError("expected a regular file")
    with open(path, "rb") as file:
        return read_object(file.read(MOST_BYTES + 1))


def whole_number(value: object) -> TypeGuard[int]:
    """Whether it is an integer of at least 0, no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_depth(value: object) -> None:
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"JSON nested deeper than {_DEEPEST} levels")
