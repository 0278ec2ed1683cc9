"""Command-line options generated from dataclasses of settings: `@configured(InferSettings)` adds all of them to a command.

Names, help, defaults, ranges and choices of the options come from the dataclasses (`settings/declare.py`). The options `--config`, `--set`
and `--print-config` are added too. Precedence, lowest first: defaults, `--config FILE.toml`, `--set`, named options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_origin

import typer

from ..settings import Facts, Setting, build, layers_of, merge, read_toml_file, settings_of, to_toml
from ..settings.values import parse_value
from .common import RUN, print_result

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
Command = Callable[..., None]

SETTINGS = "settings_options"
"""Attribute of a command: its options that are settings, by parameter. `panels.py` reads their help from here."""
OLD_OPTIONS = "old_options"
"""Attribute of a command: its former options, which work but are hidden."""

_Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE.toml", rich_help_panel=RUN, help="TOML file with settings, as --print-config prints it."),
]
_Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", rich_help_panel=RUN, help="Set one setting; overrides --config; may be repeated."
    ),
]
_Print = Annotated[
    bool, typer.Option("--print-config", rich_help_panel=RUN, help="Print all settings as TOML for --config and exit.")
]


@dataclass(frozen=True)
class Chosen(Generic[C]):
    """The settings given to a command."""

    root: type[C]
    """The dataclass of all its settings; each field is a section."""
    file: Mapping[str, object] = field(default_factory=dict)
    """Content of `--config`; read once, since it may be a pipe."""
    sets: tuple[str, ...] = ()
    """`--set`."""
    named: Mapping[str, Any] = field(default_factory=dict)
    """Named options, by section and key."""
    only_print: bool = False
    """`--print-config`."""

    def layer(self) -> dict[str, Any]:
        """Only the given settings, by section and key."""
        return merge(self.root, layers_of(self.file, self.sets, self.named))

    def config(self, below: Mapping[str, object] | None = None) -> C:
        """All settings; with `--print-config` they are printed and the command ends.

        Args:
            below: replaces defaults, by section and key.

        Raises:
            ConfigError: an unknown setting, or one that is out of range.
        """
        config = build(self.root, merge(self.root, [below or {}, *layers_of(self.file, self.sets, self.named)]))
        self.show(config)
        return config

    def show(self, config: C) -> None:
        """With `--print-config`: prints the settings as TOML and ends the command."""
        if self.only_print:
            print_result(*to_toml(config).splitlines())
            raise typer.Exit


@dataclass(frozen=True)
class Option:
    """A setting as an option of one command."""

    path: tuple[str, ...]
    """Section and key."""
    setting: Setting
    panel: str
    """Its heading in the help."""
    dotted: bool
    """Whether its name is `--section.key`."""

    @property
    def name(self) -> str:
        """The Python parameter."""
        return "__".join(self.path)

    @property
    def shown(self) -> str:
        """The option as shown in the help."""
        own = self.setting.facts.option
        return own or f"--{'.'.join(self.path) if self.dotted else self.path[-1].replace('_', '-')}"

    @property
    def former(self) -> tuple[str, ...]:
        """Former names of the option."""
        old = () if self.dotted else tuple(f"--{name.replace('_', '-')}" for name in self.setting.facts.was)
        return (*old, *self.setting.facts.was_options)

    def declarations(self) -> list[str]:
        """Declarations for Typer."""
        names = [self.shown, *self.former]
        flags = [f"{name}/{_negated(name)}" for name in names] if self.setting.kind is bool else names
        return [*([self.setting.facts.short] if self.setting.facts.short else []), *flags]

    def parameter(self, varies: bool) -> inspect.Parameter:
        """The parameter of the command's function; `varies`: its default depends on other settings."""
        facts, kind, default = self.setting.facts, self.setting.kind, self.setting.default
        is_list = get_origin(kind) is tuple
        is_number = kind in (int, float) and not facts.choices and not _exclusive(facts)
        shown: bool | str = facts.none or False if default in (None, "") else True
        option = typer.Option(
            *self.declarations(),
            show_default="the preset's" if varies else shown,
            rich_help_panel=self.panel,
            min=facts.min if is_number else None,
            max=facts.max if is_number else None,
            metavar=_metavar(self.setting),
            autocompletion=_completion(facts.choices) if facts.choices else None,
        )
        type_ = str if is_list else kind
        value = None if varies or default == "" else str(list(default)) if is_list else default
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=value, annotation=Annotated[type_ | None, option])

    def value(self, given: Any) -> Any:
        """A value from the command line, as in a TOML file."""
        return parse_value(given) if get_origin(self.setting.kind) is tuple else given


def options_of(root: type, dotted: bool = False) -> list[Option]:
    """All options of a dataclass of sections. Fields outside of sections have options written by hand."""
    return [
        option
        for each in settings_of(root)
        if each.is_section
        for option in _options(Option((each.name,), each, panel=each.facts.panel, dotted=dotted))
    ]


def _options(above: Option) -> Iterator[Option]:
    """The options of a section."""
    for each in settings_of(above.setting.kind):
        option = Option((*above.path, each.name), each, panel=each.facts.panel or above.panel, dotted=above.dotted)
        if each.facts.python_only or each.name in above.setting.facts.without:
            continue
        if each.is_section:
            yield from _options(option)
        else:
            yield option


def configured(
    root: type[C], *, dotted: bool = False, varying: Sequence[tuple[str, ...]] = (), without: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """A decorator: the command's parameter `chosen` becomes the options of a dataclass of settings.

    Args:
        root: the dataclass; each of its fields that is a dataclass itself is a section.
        dotted: name options `--section.key`, unless they declare a name of their own.
        varying: settings whose default depends on others, and is not shown.
        without: sections that are no options of this command.
    """
    options = [option for option in options_of(root, dotted) if option.path[0] not in without]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*, ctx: typer.Context, config: Path | None, sets: list[str] | None, print_config: bool, **given: Any) -> None:
            named: dict[str, Any] = {}
            for option in options:
                value = given.pop(option.name)
                source = ctx.get_parameter_source(option.name)
                if value is not None and source is not None and source.name == "COMMANDLINE":
                    *sections, key = option.path
                    inside = named
                    for each in sections:
                        inside = inside.setdefault(each, {})
                    inside[key] = option.value(value)
            file = {} if config is None else read_toml_file(config)
            chosen = Chosen(root, file, tuple(sets or ()), named=named, only_print=print_config)
            command(chosen=chosen, **given)

        kind = inspect.Parameter.KEYWORD_ONLY
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [each.replace(kind=kind) for each in own if each.name != "chosen"]
        parameters += [option.parameter(option.path in varying) for option in options]
        parameters += [
            inspect.Parameter("config", kind, default=None, annotation=_Config),
            inspect.Parameter("sets", kind, default=None, annotation=_Sets),
            inspect.Parameter("print_config", kind, default=False, annotation=_Print),
            inspect.Parameter("ctx", kind, annotation=typer.Context),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        setattr(run, SETTINGS, {option.name: option for option in options})
        return renamed(*(old for option in options for old in option.former))(run)

    return decorate


def renamed(*old: str) -> Callable[[Command], Command]:
    """A decorator: these former options of a command work but are hidden."""

    def decorate(command: Command) -> Command:
        before: frozenset[str] = getattr(command, OLD_OPTIONS, frozenset())
        setattr(command, OLD_OPTIONS, before | {*old, *map(_negated, old)})
        return command

    return decorate


def _negated(option: str) -> str:
    return f"--no-{option.removeprefix('--')}"


def _metavar(setting: Setting) -> str | None:
    facts = setting.facts
    if facts.choices:
        return f"[{'|'.join([*(str(choice) for choice in facts.choices if choice != ''), *facts.forms])}]"
    if get_origin(setting.kind) is tuple:
        return "LIST"
    if setting.kind in (int, float):
        name = "N" if setting.kind is int else "X"
        if not _exclusive(facts):
            return name  # Typer shows the range after the help
        low = (
            ""
            if facts.above is None and facts.min is None
            else f"{facts.min:g}<="
            if facts.above is None
            else f"{facts.above:g}<"
        )
        high = (
            ""
            if facts.below is None and facts.max is None
            else f"<={facts.max:g}"
            if facts.below is None
            else f"<{facts.below:g}"
        )
        return f"{low}{name}{high}"
    return None


def _exclusive(facts: Facts) -> bool:
    """Whether a bound is exclusive, which Typer cannot express: only the dataclass checks it."""
    return facts.above is not None or facts.below is not None


def _completion(choices: Sequence[str | int]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [str(choice) for choice in choices if choice != "" and str(choice).startswith(incomplete)]

    return complete
