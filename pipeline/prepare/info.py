"""The text of `samdiff info` and `prepare --dry-run`, as lines; nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ...errors import printable
from ..scientific.sample_format import DTYPES
from ..shards.reader import Store
from ..shards.schema import STAGES, shape_of

if TYPE_CHECKING:
    from .run import Plan  # loads PyTorch, which `samdiff info` does not need


def store_title(store: Store) -> str:
    """Place, format and fingerprint of a store in one line; safe to print."""
    attrs = store.attrs
    return f"{store.place}: format {attrs['format']} {attrs['format_version']}, fingerprint {printable(store.fingerprint[:16])}"


def note_counts(store: Store) -> dict[str, int]:
    """Remark of the decoder -> number of used images that have it, the most frequent first; safe to print."""
    offsets, text = store.table("images/note_offset").astype(np.int64), store.table("images/note").tobytes()
    noted = np.flatnonzero((np.diff(offsets) > 0) & (store.table("images/status") == 0)).tolist()
    phrases = (text[offsets[image] : offsets[image + 1]].decode(errors="replace").split("; ") for image in noted)
    return {printable(phrase): count for phrase, count in Counter(each for found in phrases for each in found).most_common()}


def store_rows(store: Store) -> list[tuple[str, str]]:
    """(label, text) for contents, segmenter and settings of a store; safe to print also for an untrusted store."""
    attrs = store.attrs
    areas = store.table("masks/area")
    used = store.table("images/status") == 0
    pixels = (store.table("images/height").astype(np.int64) * store.table("images/width"))[used].sum()
    per_image = store.table("images/n_masks")[used]
    return [
        ("images", f"{store.n_images} ({int((~used).sum())} skipped), {pixels / 1e6:.1f} megapixels"),
        (
            "tiles",
            f"{len(store)} of {store.tile} x {store.tile} HR and {store.tile // store.scale} x {store.tile // store.scale} LR "
            f"pixels (x{store.scale}, {_inline(attrs.get('degradation', {}))})",
        ),
        (
            "masks",
            f"{store.n_masks}" + (_mask_statistics(areas, per_image) if len(areas) and len(per_image) else ""),
        ),
        *([] if store.samples.is_rgb8 else [("samples", store.samples.describe())]),
        ("structure", _inline(attrs.get("structure", {}))),
        ("segmenter", _inline(attrs.get("segmenter", {}))),
        ("software", _inline(attrs.get("software", {}))),
        *([("uncompared", _inline(attrs["uncompared"]))] if attrs.get("uncompared") else []),
    ]


def skipped_rows(store: Store) -> list[tuple[str, str]]:
    """(`skipped`, name and reason) for each image that is not used; safe to print."""
    return [("skipped", f"{printable(name)}: {printable(reason)}") for name, reason in store.skipped().items()]


def store_lines(store: Store) -> list[str]:
    """Sizes, mask statistics, segmenter and settings of a store; safe to print also for an untrusted store."""
    return [
        store_title(store),
        *(f"  {label:11s} {text}" for label, text in store_rows(store)),
        "  on disk",
        *(f"    {line}" for line in size_lines(store)),
        f"  structure on disk: {structure_line(store)}",
        *(f"  {label:11s} {text}" for label, text in skipped_rows(store)),
    ]


def store_facts(store: Store) -> dict[str, object]:
    """The same facts as `store_lines`, as values for `samdiff info --json`; names and settings are as the store has them."""
    attrs = store.attrs
    areas = store.table("masks/area")
    used = store.table("images/status") == 0
    pixels = (store.table("images/height").astype(np.int64) * store.table("images/width"))[used].sum()
    per_image = store.table("images/n_masks")[used]
    counted = {"per_image_min": 0, "per_image_median": 0.0, "per_image_max": 0, "images_without": int((per_image == 0).sum())}
    if len(per_image):
        counted |= {
            "per_image_min": int(per_image.min()),
            "per_image_median": float(np.median(per_image)),
            "per_image_max": int(per_image.max()),
        }
    return {
        "store": str(store.place),
        "format": attrs["format"],
        "format_version": attrs["format_version"],
        "fingerprint": store.fingerprint,
        "images": {"count": store.n_images, "skipped": int((~used).sum()), "pixels": int(pixels)},
        "tiles": {"count": len(store), "hr": store.tile, "lr": store.tile // store.scale, "scale": store.scale},
        "masks": {"count": store.n_masks, "area_median": float(np.median(areas)) if len(areas) else None, **counted},
        "degradation": attrs.get("degradation", {}),
        **{name: attrs[name] for name in ("pixels", "sam_view", "crs", "measured") if name in attrs},
        "structure": attrs.get("structure", {}),
        "segmenter": attrs.get("segmenter", {}),
        "software": attrs.get("software", {}),
        "uncompared": attrs.get("uncompared", {}),
        "bytes": {name: {"on_disk": size, "raw": full} for name, size, full in _sizes(store)},
        "skipped": dict(store.skipped()),
    }


def size_lines(store: Store) -> list[str]:
    """Bytes on disk beside raw bytes, for each tile array and for all tables of a group."""
    return [f"{name:13s}{text}" for name, text in size_rows(store)]


def size_rows(store: Store) -> list[tuple[str, str]]:
    """(array or group, bytes on disk beside raw bytes)."""
    return [
        (name, f"{bytes_text(size):>10s}  {100 * size / max(full, 1):5.1f} % of {bytes_text(full)} raw")
        for name, size, full in _sizes(store)
    ]


def _sizes(store: Store) -> list[tuple[str, int, int]]:
    """(array or group, bytes on disk, raw bytes); the last row is the sum."""
    on_disk: Counter[str] = Counter()
    for key, (size, _) in store.manifest.items():
        on_disk[_bucket(key)] += size
    raw: Counter[str] = Counter()
    for path, spec in store.arrays.items():
        raw[_bucket(path)] += int(np.prod(shape_of(spec, store.sizes), dtype=np.int64)) * np.dtype(spec.dtype).itemsize
    rows = [(name, on_disk[name], raw[name]) for name in sorted(raw)]
    return [*rows, ("total", sum(on_disk.values()), sum(raw.values()))]


def structure_line(store: Store) -> str:
    """The size of labels and masks relative to the raw HR pixels, and to a map of one float32 per HR pixel."""
    size = sum(
        size
        for key, (size, _) in store.manifest.items()
        if key.startswith(("tiles/labels/", "masks/")) and not key.endswith(".json")
    )
    pixels, raw = len(store) * store.tile**2, store.samples.count * DTYPES[store.samples.dtype]
    return f"{bytes_text(size)}, {100 * size / max(raw * pixels, 1):.2f} % of raw HR, 1/{4 * pixels / max(size, 1):.0f} of a float32 map"


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


def bytes_text(size: float) -> str:
    """Bytes with three digits and a unit: `6.12 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.0f} PB"
