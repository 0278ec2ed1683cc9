"""Declaring a setting: a field of a frozen dataclass, a sentence under it, and `setting(…)` for its range, choices and names.

    @dataclass(frozen=True)
    class TrainConfig:
        batch: int = setting(16, min=1)
        \"""Samples per step, over all processes.\"""

        def __post_init__(self) -> None:
            check(self)

Everything else is made from this: checks, TOML keys, `--set`, `--print-config`, the JSON schema, and the command-line options
(`commands/options.py`) with their help, defaults, ranges and choices.
"""

from __future__ import annotations

import ast
import functools
import inspect
import numbers
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ..errors import ConfigError, brief, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

_KEY = "samdiff"
"""Of our entry in a field's metadata."""
_NO_VALUES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Facts:
    """What is declared of a setting, beside its type, its default and its sentence."""

    min: float | None = None
    """Smallest value that is allowed."""
    max: float | None = None
    """Largest value that is allowed."""
    above: float | None = None
    """All allowed values are greater."""
    below: float | None = None
    """All allowed values are smaller."""
    choices: tuple[str | int, ...] = ()
    """The allowed values, if they are few."""
    forms: Mapping[str, str] = field(default_factory=lambda: _NO_VALUES)
    """Values that are allowed besides the choices: how the help shows them -> regular expression of the whole value."""
    option: str = ""
    """The command-line option, such as `--out`; empty: made from the field's name."""
    short: str = ""
    """A short form of the option, such as `-o`."""
    was: tuple[str, ...] = ()
    """Former names: still read from files and `--set`, and still taken as options, but not shown."""
    was_options: tuple[str, ...] = ()
    """Former options that are not a former name with `--` before it."""
    was_values: Mapping[str, str] = field(default_factory=lambda: _NO_VALUES)
    """Former value -> value."""
    panel: str = ""
    """The heading of the help under which the option stands; empty: the section's."""
    none: str = ""
    """What is taken where the value is None (or empty), as the help shows it in place of a default."""
    python_only: bool = False
    """Whether it can be given in Python only, and stands in no file and no help."""
    without: tuple[str, ...] = ()
    """Of a section: settings of its class that have no meaning here."""


def setting(
    default: T,
    *,
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str | int] = (),
    forms: Mapping[str, str] | None = None,
    option: str = "",
    short: str = "",
    was: Sequence[str] = (),
    was_options: Sequence[str] = (),
    was_values: Mapping[str, str] | None = None,
    panel: str = "",
    none: str = "",
    python_only: bool = False,
) -> T:
    """The default of a dataclass field, with what else is known of the setting; see `Facts` for the arguments."""
    facts = Facts(
        min=min,
        max=max,
        above=above,
        below=below,
        choices=tuple(choices),
        forms=MappingProxyType(dict(forms or {})),
        option=option,
        short=short,
        was=tuple(was),
        was_options=tuple(was_options),
        was_values=MappingProxyType(dict(was_values or {})),
        panel=panel,
        none=none,
        python_only=python_only,
    )
    return field(default=default, metadata={_KEY: facts})


def section(kind: type[T], *, panel: str = "", without: Sequence[str] = ()) -> T:
    """The default of a field that is a dataclass of settings itself: `[section]` in a file, `section.key` for `--set`."""
    return field(default_factory=kind, metadata={_KEY: Facts(panel=panel, without=tuple(without))})


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass of settings."""

    name: str
    """The key in its section."""
    kind: Any
    """str, int, float, bool, Path, `tuple[int, ...]` or `tuple[str, ...]`, or a dataclass of settings; without `| None`."""
    optional: bool
    """Whether None is a value of it."""
    default: Any
    """The default; for a section its class's own defaults."""
    facts: Facts
    """What is declared of it."""
    owner: type
    """The class that it is a field of."""

    @property
    def help(self) -> str:
        """The sentence under the field, in one line. Reads the source file, when it is needed."""
        return _sentences(self.owner).get(self.name, "")

    @property
    def is_section(self) -> bool:
        """Whether it holds settings itself."""
        return hasattr(self.kind, "__dataclass_fields__")


@functools.cache
def settings_of(kind: type) -> tuple[Setting, ...]:
    """The settings of a dataclass in their order. Those for Python only are among them."""
    hints = get_type_hints(kind)
    found = []
    for each in fields(kind):
        hint, optional = _without_none(hints[each.name])
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        facts = each.metadata.get(_KEY, Facts())
        found.append(Setting(each.name, hint, optional=optional, default=default, facts=facts, owner=kind))
    return tuple(found)


def names_of(kind: type, without: Sequence[str] = ()) -> dict[str, Setting]:
    """name -> setting, of those that may be given in a file; former names are not among them."""
    return {each.name: each for each in settings_of(kind) if not each.facts.python_only and each.name not in without}


def check(config: DataclassInstance) -> None:
    """The types, ranges and choices of all settings; call it first in `__post_init__`. Numbers of NumPy become Python's.

    Raises:
        ConfigError: the first value that is not allowed.
    """
    for each in settings_of(type(config)):
        value = getattr(config, each.name)
        if each.facts.python_only or each.is_section or (value is None and each.optional):
            continue
        if isinstance(value, numbers.Number) and not isinstance(value, int | float) and hasattr(value, "item"):
            value = value.item()
            object.__setattr__(config, each.name, value)
        if isinstance(value, str) and value in each.facts.was_values:
            value = each.facts.was_values[value]
            object.__setattr__(config, each.name, value)
        if reason := problem(each, value):
            raise ConfigError(f"{each.name}: {reason}")


def problem(each: Setting, value: Any) -> str:
    """Why a value is not allowed, as `expected …, got …`; empty if it is."""
    facts = each.facts
    if facts.choices:
        if value in facts.choices and not isinstance(value, bool):
            return ""
        if isinstance(value, str) and any(re.fullmatch(form, value) for form in facts.forms.values()):
            return ""
        known = [*(str(choice) for choice in facts.choices if choice != ""), *facts.forms]
        hint = nearest(value, known) if isinstance(value, str) else ""
        return f"expected one of {', '.join(known)}, got {brief(value)}{hint}"
    if each.kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        return f"expected an integer, got {brief(value)}"
    if each.kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        return f"expected a number, got {brief(value)}"
    if each.kind is bool and not isinstance(value, bool):
        return f"expected true or false, got {brief(value)}"
    if each.kind is str and not isinstance(value, str):
        return f"expected text, got {brief(value)}"
    if each.kind in (int, float) and not within(facts, value):
        return f"expected {range_of(facts)}, got {brief(value)}"
    return ""


def within(facts: Facts, value: float) -> bool:
    """Whether a number is in the declared range; NaN is in none."""
    return (
        (facts.min is None or value >= facts.min)
        and (facts.max is None or value <= facts.max)
        and (facts.above is None or value > facts.above)
        and (facts.below is None or value < facts.below)
        and value == value
        and abs(value) != float("inf")
    )


def range_of(facts: Facts) -> str:
    """The declared range in words, such as `at least 1` or `above 0 and at most 10000`."""
    parts = []
    if facts.min is not None and facts.max is not None:
        parts.append(f"{facts.min:g} to {facts.max:g}")
    else:
        parts += [f"at least {facts.min:g}"] if facts.min is not None else []
        parts += [f"at most {facts.max:g}"] if facts.max is not None and facts.above is None else []
    parts += [f"above {facts.above:g}"] if facts.above is not None else []
    parts += [f"at most {facts.max:g}"] if facts.above is not None and facts.max is not None else []
    parts += [f"below {facts.below:g}"] if facts.below is not None else []
    return " and ".join(parts) or "a finite number"


def old_names(kind: type[T]) -> type[T]:
    """A class decorator, above `@dataclass`: former names of settings (`was`) work as keywords and attributes too."""
    renamed = {old: each.name for each in fields(cast(Any, kind)) for old in each.metadata.get(_KEY, Facts()).was}
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Any, *values: Any, **named: Any) -> None:
        for old in [name for name in named if name in renamed]:
            if renamed[old] in named:
                raise ConfigError(f"{renamed[old]}: given twice, also by its former name {old}")
            named[renamed[old]] = named.pop(old)
        made(self, *values, **named)

    def former(self: Any, name: str) -> Any:
        if name in renamed:
            return getattr(self, renamed[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    kind.__init__ = init  # type: ignore[method-assign]
    kind.__getattr__ = former  # type: ignore[attr-defined]
    return kind


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        if len(parts) == 1:
            return parts[0], len(parts) < len(get_args(hint))
    return hint, False


@functools.cache
def _sentences(kind: type) -> dict[str, str]:
    """field -> the text under it in the source, in one line; inherited fields too."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if hasattr(each, "__dataclass_fields__"):
            found |= _sentences_in(each.__module__).get(each.__name__, {})
    return found


@functools.cache
def _sentences_in(module: str) -> dict[str, dict[str, str]]:
    """class -> field -> sentence, for a module's source; nothing where the source is not installed."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):  # compiled files only
        return {}
    return {node.name: dict(_under(node.body)) for node in _classes(tree.body)}


def _classes(body: Sequence[ast.stmt]) -> Iterator[ast.ClassDef]:
    """Classes of a module, and of its functions; not by `ast.walk`, which takes ten times as long."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node
        elif isinstance(node, ast.FunctionDef):
            yield from _classes(node.body)


def _under(body: Sequence[ast.stmt]) -> Iterator[tuple[str, str]]:
    for line, below in zip(body, body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield line.target.id, " ".join(text.value.split())
