"""The help of a command: options under headings, former options hidden, examples at the end. Plain text."""

from __future__ import annotations

import copy
import re
from typing import Any

from typer.core import TyperCommand

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


def _shown(param: Any, old: frozenset[str]) -> Any:
    """A copy of the parameter without former names, and without `--no-…` if that is the default."""
    shown = copy.copy(param)
    shown.opts = [name for name in param.opts if name not in old]
    shown.secondary_opts = [name for name in param.secondary_opts if name not in old and param.default is not False]
    return shown
