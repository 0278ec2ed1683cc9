"""What the commands share: options, and how they report."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

import typer

SKIPPED = 3  # exit status

Device = Annotated[str, typer.Option(help="auto (CUDA if there is one), cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: the library's choice.")]
CACHE = "the cache (SAMDIFF_CACHE, default the user's cache folder)"


def default_store(source: str) -> str:
    """data/NAME.zarr, NAME being the source's name without its suffixes."""
    return f"data/{Path(source).resolve().name.split('.')[0]}.zarr"


def say(text: str) -> None:
    """One line for the user, at once."""
    print(text, flush=True)


def finish(skipped: Mapping[str, str], told: Collection[str] = ()) -> None:
    """List what was skipped, but for what the user was told already, and leave with status 3 if there was any."""
    for name, reason in skipped.items():
        if name not in told:
            print(f"skipped {name}: {reason}", file=sys.stderr)
    if told:
        print(f"{len(told)} skipped, each listed above with its reason", file=sys.stderr)
    if skipped:
        raise typer.Exit(SKIPPED)
