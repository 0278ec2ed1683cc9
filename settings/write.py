"""Settings written down: as TOML that can be read again, and as a JSON schema for editors. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

from .declare import Setting, names_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}


def to_toml(config: DataclassInstance, without: Sequence[str] = ()) -> str:
    """All settings, each with its sentence as a comment. What is None is a comment too, for TOML has no word for it."""
    return "\n".join(_lines(config, "", without)) + "\n"


def _lines(config: DataclassInstance, prefix: str, without: Sequence[str]) -> Iterator[str]:
    known = list(names_of(type(config), without).values())
    for each in (each for each in known if not each.is_section):
        value = getattr(config, each.name)
        shown = f"# {each.name} = …" if value is None else f"{each.name} = {_written(value)}"
        note = f"  # {each.help}" if each.help else ""
        yield shown + note + (f" Now: {each.facts.none}." if value is None and each.facts.none else "")
    for each in (each for each in known if each.is_section):
        yield ""
        yield f"[{prefix}{each.name}]"
        yield from _lines(getattr(config, each.name), f"{prefix}{each.name}.", each.facts.without)


def _written(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool | int | float):
        return repr(value).lower()
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def to_schema(kind: type, title: str) -> dict[str, Any]:
    """A JSON schema (draft 2020-12) of the TOML file: names, types, defaults, ranges, choices, sentences; no other keys.

    Editors with TOML support check and complete a file that names it in its first line: `#:schema FILE.json`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **_object(kind, ())}


def _object(kind: type, without: Sequence[str]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for each in names_of(kind, without).values():
        properties[each.name] = {"description": each.help, **_property(each)}
        for old in each.facts.was:
            properties[old] = {"description": f"Former name of {each.name}.", "deprecated": True, **_property(each)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _property(each: Setting) -> dict[str, Any]:
    if each.is_section:
        return _object(each.kind, each.facts.without)
    found: dict[str, Any] = {"type": _TYPES.get(each.kind, "array")}
    if get_origin(each.kind) is tuple:
        found["items"] = {"type": _TYPES[get_args(each.kind)[0]]}
    if each.default is not None:
        found["default"] = str(each.default) if isinstance(each.default, Path) else each.default
    if each.facts.choices:
        names = [*each.facts.choices, *each.facts.was_values]
        patterns = [{"pattern": f"^(?:{form})$"} for form in each.facts.forms.values()]
        found |= {"anyOf": [{"enum": names}, *patterns]} if patterns else {"enum": names}
    facts = each.facts
    bounds = {"minimum": facts.min, "maximum": facts.max, "exclusiveMinimum": facts.above, "exclusiveMaximum": facts.below}
    return found | {name: bound for name, bound in bounds.items() if bound is not None}
