"""What an argument of `samdiff report` is: a store, a run or an evaluation, by the files in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, printable
from .evaluations import METRICS_FILE, UNFINISHED_FILE
from .runs import CONFIG_FILE, LOG_FILE

STORE, RUN, EVALUATION = "store", "run", "evaluation"
_ROOT_KEY = "zarr.json"


@dataclass(frozen=True)
class Subject:
    """An argument."""

    kind: str
    """STORE, RUN or EVALUATION."""
    place: str
    """Its folder or URL."""

    def files(self) -> list[Path]:
        """The files that are read and must not be overwritten, as far as their names are known without reading them."""
        names = {STORE: [_ROOT_KEY], RUN: [CONFIG_FILE, LOG_FILE], EVALUATION: [METRICS_FILE]}
        return [] if "://" in self.place else [Path(self.place) / name for name in names[self.kind]]


def recognise(given: str) -> Subject:
    """What is in a place.

    Raises:
        ConfigError: nothing, or nothing that a page can show.
    """
    if "://" in given:
        return Subject(STORE, given)
    if not given:
        raise ConfigError("report: expected a store, a run or an evaluation, got an empty name")
    folder = Path(given)
    if folder.name in (METRICS_FILE, CONFIG_FILE, LOG_FILE, _ROOT_KEY) and folder.is_file():
        folder = folder.parent
    if (folder / _ROOT_KEY).exists() or os.path.lexists(f"{os.path.normpath(folder)}.staging"):
        return Subject(STORE, str(folder))
    if (folder / METRICS_FILE).exists():
        return Subject(EVALUATION, str(folder))
    if (folder / CONFIG_FILE).exists():
        return Subject(RUN, str(folder))
    shown = printable(folder)
    if (folder / UNFINISHED_FILE).exists():
        raise ConfigError(f"{shown}: the evaluation is not finished; run the same samdiff evaluate again, which resumes it")
    if not os.path.lexists(folder):
        raise ConfigError(f"{shown}: expected a store, a run or an evaluation, but there is no such folder")
    raise ConfigError(
        f"{shown}: expected a store ({_ROOT_KEY}), a run ({CONFIG_FILE}) or an evaluation ({METRICS_FILE}), and found none of them"
    )
