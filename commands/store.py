"""`samdiff info`: what can be asked of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import say


def info(store: Annotated[Path, typer.Argument(help="A store that `samdiff prepare` wrote.")]) -> None:
    """What is in a store: counts, sizes, mask statistics, segmenter and settings."""
    from ..pipeline.info import store_lines
    from ..pipeline.store import open_store

    say("\n".join(store_lines(open_store(store))))
