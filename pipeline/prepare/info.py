"""The text of `samdiff info` and `prepare --dry-run`, as lines; nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...errors import printable
from ..shards.reader import Store
from ..shards.schema import STAGES, shape_of
from ..shards.writer import SPECS

if TYPE_CHECKING:
    from .run import Plan  # loads PyTorch, which `samdiff info` does not need


def store_lines(store: Store) -> list[str]:
    """Sizes, mask statistics, segmenter and settings of a store; safe to print also for an untrusted store."""
    attrs = store.attrs
    areas = store.table("masks/area")
    used = store.table("images/status") == 0
    pixels = (store.table("images/height").astype(np.int64) * store.table("images/width"))[used].sum()
    per_image = store.table("images/n_masks")[used]
    lines = [
        f"{store.place}: format {attrs['format']} {attrs['format_version']}, fingerprint {printable(store.fingerprint[:16])}",
        f"  images      {store.n_images} ({int((~used).sum())} skipped), {pixels / 1e6:.1f} megapixels",
        f"  tiles       {len(store)} of {store.tile} x {store.tile} HR and {store.tile // store.scale} x {store.tile // store.scale} LR "
        f"pixels (x{store.scale}, {_inline(attrs.get('degradation', {}))})",
        f"  masks       {store.n_masks}" + (_mask_statistics(areas, per_image) if len(areas) and len(per_image) else ""),
        f"  structure   {_inline(attrs.get('structure', {}))}",
        f"  segmenter   {_inline(attrs.get('segmenter', {}))}",
        f"  software    {_inline(attrs.get('software', {}))}",
        *([f"  uncompared  {_inline(attrs['uncompared'])}"] if attrs.get("uncompared") else []),
        "  on disk",
        *(f"    {line}" for line in size_lines(store)),
        f"  structure on disk: {structure_line(store)}",
    ]
    skipped = store.skipped()
    return lines + [f"  skipped     {printable(name)}: {printable(reason)}" for name, reason in skipped.items()]


def size_lines(store: Store) -> list[str]:
    """Bytes on disk and uncompressed bytes of each tile array, and of all tables of a group; then the total."""
    on_disk: Counter[str] = Counter()
    for key, (size, _) in store.manifest.items():
        on_disk[_bucket(key)] += size
    raw: Counter[str] = Counter()
    for path, spec in SPECS.items():
        raw[_bucket(path)] += int(np.prod(shape_of(spec, store.sizes), dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    rows = [(name, on_disk[name], raw[name]) for name in sorted(raw)]
    rows.append(("total", sum(on_disk.values()), sum(raw.values())))
    return [
        f"{name:13s}{_bytes(size):>10s}  {100 * size / max(full, 1):5.1f} % of {_bytes(full)} raw" for name, size, full in rows
    ]


def structure_line(store: Store) -> str:
    """The size of labels and masks relative to the raw HR pixels, and to a map of one float32 per HR pixel."""
    size = sum(
        size
        for key, (size, _) in store.manifest.items()
        if key.startswith(("tiles/labels/", "masks/")) and not key.endswith(".json")
    )
    pixels = len(store) * store.tile**2
    return (
        f"{_bytes(size)}, {100 * size / max(3 * pixels, 1):.2f} % of raw HR, 1/{4 * pixels / max(size, 1):.0f} of a float32 map"
    )


def plan_lines(plan: Plan, segmenter: str) -> list[str]:
    """Three lines per stage of `prepare`: its state, what it reads, what it writes; then the settings that differ."""
    total = len(plan.images)
    finished = plan.committed is not None
    if plan.changed:
        state = {"masks": f"stale: {total}", "tiles": "stale", "commit": "stale"}
    elif finished:
        state = {"masks": f"done: {total}", "tiles": "done", "commit": "done"}
    else:
        left = len(plan.missing)
        state = {"masks": f"done: {total - left}, missing: {left}", "tiles": "missing", "commit": "missing"}
    state["scan"] = f"done: {total} images"
    lines = []
    for stage in STAGES:
        if stage.command == "prepare":
            reads = ", ".join(segmenter if name == "segmenter weights" else name for name in stage.reads)
            lines.append(f"{stage.name:8s}{state[stage.name]}")
            lines.append(f"        reads  {reads}")
            lines.append(f"        writes {', '.join(stage.writes)}")
    return lines + [f"changed {line}" for line in plan.changed]


def _mask_statistics(areas: np.ndarray, per_image: np.ndarray) -> str:
    return (
        f"; per image min {per_image.min()}, median {np.median(per_image):.0f}, max {per_image.max()}"
        f"; area median {np.median(areas):.0f}, max {areas.max()} pixels; images without a mask: {int((per_image == 0).sum())}"
    )


def _bucket(key: str) -> str:
    """The row of `size_lines` that a key belongs to: `tiles/hr` and such for an array of tiles, `images` or `masks` for a table."""
    head, _, rest = key.partition("/")
    return f"tiles/{rest.split('/')[0]}" if head == "tiles" and rest != "zarr.json" else head


def _inline(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{printable(key)} {_inline(v) if isinstance(v, Mapping) else printable(v)}" for key, v in facts.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.0f} PB"
