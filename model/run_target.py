"""What a run's folder may be, before anything is written into it: no store, no root of a disk, no links in place of the run's files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import ConfigError, printable
from ..pipeline.foreign import is_plain_file
from ..pipeline.shards import ROOT_KEY
from ..pipeline.targets import inside_a_store

_REWRITTEN = ("config.json", "log.jsonl", "rrdb.safetensors", "model.safetensors", "best.safetensors")
"""What a run writes again and again, so a link of that name would be followed or lost."""

_OURS = re.compile(r"config\.json|(rrdb|model|best|state-[a-z]+-[0-9]{8,})\.safetensors")


def is_run_file(key: str) -> bool:
    """Whether a run writes a file of that name whole, so that a partial file of it may be a killed run's."""
    return _OURS.fullmatch(key) is not None


def check_run_folder(out: Path) -> None:
    """Refuse what cannot be a run's folder; nothing is changed.

    Raises:
        ConfigError: it is the root of a disk, a file, a link to nowhere, a store or a folder in one, or a link, a folder or a device has
            the name of one of the run's files.
    """
    if not Path(os.path.realpath(out)).name:
        raise ConfigError(f"{printable(out)}: expected a run's folder, got the root of a disk; give another --out")
    if os.path.lexists(out) and not out.is_dir():
        what = "a link to nowhere" if out.is_symlink() else "a file"
        raise ConfigError(f"{printable(out)}: expected a folder or nothing, got {what}; give another --out")
    store = out if os.path.lexists(out / ROOT_KEY) and (out / _REWRITTEN[0]).exists() else inside_a_store(out)
    if store is not None:
        raise ConfigError(
            f"{printable(out)}: lies in the store {printable(store)}, where nothing else may lie; give another --out"
        )
    for name in _REWRITTEN:
        if os.path.lexists(out / name) and not is_plain_file(out / name):
            raise ConfigError(
                f"{printable(out / name)}: expected a file of a run or nothing, got a link, a folder or a device; move it away, or give another --out"
            )
