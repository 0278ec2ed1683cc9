"""Settings from nested mappings, TOML files and `section.key=value`: every key and type checked, former names understood."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

from ..errors import ConfigError, brief, nearest
from ..runtime import user_path
from .declare import Setting, names_of, settings_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
C = TypeVar("C", bound="DataclassInstance")
Layer = Mapping[str, Any]
"""Settings by section and key, as a TOML file gives them; not all of them, and not checked yet."""

_LONGEST = 1000  # list of settings
_MOST_BYTES = 4 << 20  # of a file of settings


def read_toml(text: str, where: str) -> dict[str, Any]:
    """A layer from TOML text; ConfigError, which names `where`, if it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid TOML ({error})") from error


def read_toml_file(file: Path) -> dict[str, Any]:
    """A layer from a TOML file of at most 4 MiB; ConfigError if it cannot be read."""
    try:
        with open(file, "rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{file}: expected settings in at most {_MOST_BYTES} bytes of TOML, and the file has more")
        return read_toml(content.decode(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); give a TOML file") from error


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """A layer from texts such as `train.lr=1e-4`; the value is TOML, or a bare word. The last one of a key counts."""
    layer: dict[str, Any] = {}
    for text in sets:
        name, equals, value = text.partition("=")
        *sections, key = name.strip().split(".")
        if not (equals and sections):
            raise ConfigError(f"--set: expected section.key=value, such as train.lr=1e-4, got {brief(text)}")
        inside = layer
        for each in sections:
            inside = inside.setdefault(each, {})
            if not isinstance(inside, dict):
                raise ConfigError(f"--set {brief(text)}: {each} has a value already, so it is no section")
        inside[key] = parse_value(value)
    return layer


def parse_value(text: str) -> Any:
    """A TOML value, or a bare word."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text.strip()


def layers_of(file: Path | Layer | None, sets: Sequence[str] = (), named: Layer | None = None) -> list[Layer]:
    """Layers from the weakest to the strongest: file (or what was read from it) < `--set` < named options."""
    return [read_toml_file(file) if isinstance(file, Path) else file or {}, parse_sets(sets), named or {}]


def merge(kind: type, layers: Sequence[Layer]) -> dict[str, Any]:
    """One layer of several, in which the later ones count; former names become the present ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _put_over(merged, present_names(kind, layer))
    return merged


def present_names(kind: type, layer: Layer, prefix: str = "") -> dict[str, Any]:
    """A layer with the present names of its settings; unknown ones stay, `build` reports them.

    Raises:
        ConfigError: a setting is given by its present and its former name.
    """
    known = {each.name: each for each in settings_of(kind)}
    renamed = {old: each.name for each in known.values() for old in each.facts.was}
    found: dict[str, Any] = {}
    for key, value in layer.items():
        name = renamed.get(key, key)
        if name in found or (name != key and name in layer):
            raise ConfigError(f"{prefix}{name}: given twice, also by its former name")
        inner = known.get(name)
        nested = inner is not None and inner.is_section and isinstance(value, Mapping)
        found[name] = present_names(inner.kind, value, f"{prefix}{name}.") if inner and nested else value
    return found


def build(kind: type[T], values: Layer, prefix: str = "", without: Sequence[str] = ()) -> T:
    """A dataclass of settings from nested mappings.

    Args:
        kind: the dataclass.
        values: its settings by name; what is missing has its default.
        prefix: of the names in messages, such as `train.`.
        without: settings of the class that are not known here.

    Raises:
        ConfigError: an unknown name (the nearest known one is named), or a value of another type or out of range.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix or 'settings'}: expected settings by name, got {brief(values)}")
    known = names_of(kind, without)
    arguments = {}
    for key, value in present_names(kind, values, prefix).items():
        if key not in known:
            raise ConfigError(unknown(key, list(known), prefix))
        arguments[key] = convert(known[key], value, f"{prefix}{key}")
    try:
        return kind(**arguments)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(prefix) else f"{prefix}{text}") from error


def unknown(key: object, known: Sequence[str], prefix: str = "") -> str:
    """The message about an unknown setting."""
    name = key if isinstance(key, str) else repr(key)
    return f"unknown setting {prefix}{brief(name)[1:-1]}{nearest(name, known)}; known: {', '.join(known)}"


def changed(config: C, changes: Mapping[str, object], where: str) -> C:
    """A copy with some settings changed, given by their present or former names; ConfigError for unknown ones."""
    known = [each.name for each in settings_of(type(config))]
    present = present_names(type(config), changes)
    for name in present:
        if name not in known:
            raise ConfigError(f"{where}: {unknown(name, known)}")
    return replace(config, **present)


def convert(each: Setting, value: Any, name: str) -> Any:
    """A value of TOML or JSON as the setting holds it; the class checks ranges and choices itself.

    Raises:
        ConfigError: it has another type, or is no finite number.
    """
    if value is None and each.optional:
        return None
    if each.is_section:
        if not isinstance(value, Mapping):
            keys = ", ".join(names_of(each.kind, each.facts.without))
            raise ConfigError(f"{name}: expected a section [{name}] with keys {keys}, got {brief(value)}")
        return build(each.kind, value, f"{name}.", without=each.facts.without)
    if get_origin(each.kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{name}: expected a list such as [1, 2, 3], got {brief(value)}")
        if len(value) > _LONGEST:
            raise ConfigError(f"{name}: expected a short list such as [1, 2, 3], got {len(value)} entries")
        return tuple(_scalar(get_args(each.kind)[0], item, name) for item in value)
    return _scalar(each.kind, each.facts.was_values.get(value, value) if isinstance(value, str) else value, name)


def _scalar(kind: type, value: Any, name: str) -> Any:
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ConfigError(f"{name}: expected a number below 2^63, got one of {value.bit_length()} bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite number, got {value}")
    if kind is Path and isinstance(value, str | Path):
        if not str(value) or "\0" in str(value):
            raise ConfigError(f"{name}: expected a path, got {brief(value)}")
        return user_path(value, name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {brief(value)}")
    return value


def _put_over(below: dict[str, Any], above: Layer) -> None:
    """Values of `above` replace those of `below`, section by section."""
    for key, value in above.items():
        inside = below.get(key)
        if isinstance(value, Mapping) and isinstance(inside, dict):
            _put_over(inside, value)
        else:
            below[key] = _copied(value)


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
