"""The help of a command: options under headings, former options hidden, examples at the end. Plain text."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from ..errors import ConfigError
from ..runtime import user_path
from .common import COMMON, RUN
from .options import OLD_OPTIONS, SETTINGS

_OFF = re.compile(r"\[default: (?:no-[^];]*|False)\]$")
"""Default of a flag that is off; not shown."""
_DEFAULT_IN_WORDS = re.compile(r"\[default: \(([^]]*?)\)(?=[];])")
_FIRST, _LAST = ("Arguments", COMMON), (RUN,)


class PanelCommand(TyperCommand):
    """A command with this help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options by panel: Common first, Run last. Options without a panel are in Common."""
        panels: dict[str, list[tuple[str, str]]] = {}
        old = self._old()
        self._read_sentences()
        for param in self.get_params(ctx):
            record = _shown(param, old).get_help_record(ctx)
            if record is not None:
                record = (record[0], _DEFAULT_IN_WORDS.sub(r"[default: \1", _OFF.sub("", record[1])).rstrip())
                is_argument = param.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(param, "rich_help_panel", None) or COMMON
                panels.setdefault(RUN if param.name == "help" else panel, []).append(record)
        ends = {name: place for place, name in enumerate(_FIRST)} | dict.fromkeys(_LAST, 100)
        for name in sorted(panels, key=lambda name: ends.get(name, 50)):
            with formatter.section(name):
                formatter.write_dl(panels[name])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Paths as their user means them: `--out=~/x`, where no shell replaces `~`, is in the home folder; an empty name is an error.

        An empty name is mostly a variable of a script that is not set; as a `Path` it would be the current folder.
        """
        given = {} if ctx.resilient_parsing else self.make_parser(ctx).parse_args(args=list(args))[0]
        rest: list[str] = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            option = next((param.opts[0] for param in self.params if param.name == name and param.opts), name)
            texts = given.get(name)
            if isinstance(value, Path) and isinstance(texts, str):
                ctx.params[name] = _path(texts, option)
            elif (
                isinstance(value, list | tuple)
                and isinstance(texts, list | tuple)
                and all(isinstance(each, Path) for each in value)
            ):
                ctx.params[name] = [_path(text, option) for text in texts]
        return rest

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Completions without former options."""
        old = self._old()
        self._read_sentences()
        return [item for item in super().shell_complete(ctx, incomplete) if item.value not in old]

    def _read_sentences(self) -> None:
        """Set the help of settings. Only when it is shown, since reading the sources is slow."""
        options = getattr(self.callback, SETTINGS, {})
        for param in self.params:
            if param.name in options:
                param.help = options[param.name].setting.help  # type: ignore[attr-defined]

    def _old(self) -> frozenset[str]:
        return getattr(self.callback, OLD_OPTIONS, frozenset())


def _path(text: str, option: str) -> Path:
    """A path from the command line. ConfigError for an empty name."""
    if not text:
        raise ConfigError(f"{option}: expected a path, got an empty name; for the current folder write .")
    path = user_path(text, option)
    return path.absolute() if str(path).startswith("~") else path  # `./~x`, which a Path shortens to `~x`


def _shown(param: Any, old: frozenset[str]) -> Any:
    """A copy of the parameter without former names, and without `--no-…` if that is the default."""
    shown = copy.copy(param)
    shown.opts = [name for name in param.opts if name not in old]
    shown.secondary_opts = [name for name in param.secondary_opts if name not in old and param.default is not False]
    return shown
