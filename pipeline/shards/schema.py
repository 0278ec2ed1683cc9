"""The contract of a store: ONE table of every array, and the stages that read and write them.

A store is a Zarr v3 group, format version 1. Everything that another program may rely on stands in `ARRAYS`; the `--dry-run`
of `samdiff prepare`, the check at each open, the store's own metadata and the README's table are all made from it.

Letters: I images, N tiles, M masks, T tile size in HR pixels, t = T / scale, R runs of all masks, B bytes of text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

FORMAT = "samdiff"
FORMAT_VERSION = 1

TABLE_ROWS = 65_536  # rows per chunk of a table
LONG_ROWS = 4_194_304  # entries per chunk of a ragged table's values
Document = Mapping[str, Any]
"""A `zarr.json`, or attributes in it: JSON values by name."""
MANIFEST_KEY = "record"  # the array that lists every file with size and SHA-256
ZSTD_LEVEL = 3  # images: level 9 saves 2 to 3 points more and takes three times as long (docs/store.md)
LABEL_LEVEL = 12  # label maps: a third smaller than level 3, decoded as fast
MAX_TILE = 4096  # HR pixels per side: the largest tile that `prepare` makes
SHARD_BYTES = 16 * 2**20  # raw HR bytes that a shard of tiles aims at


@dataclass(frozen=True)
class ArraySpec:
    """One array of the store. `shape` holds letters (see the module) and numbers; rows are the first dimension."""

    path: str
    dtype: str
    shape: tuple[str | int, ...]
    dims: tuple[str, ...]
    frame: str
    meaning: str
    stage: str
    """The stage that writes it."""
    rows: int = TABLE_ROWS
    """Rows per chunk; 1 and sharded for tiles."""
    level: int = ZSTD_LEVEL
    """zstd's level: readers need not know it."""

    @property
    def little(self) -> np.dtype:
        """The dtype as it lies in the store: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def group(self) -> str:
        """`images`, `tiles` or `masks`."""
        return self.path.split("/")[0]


def _tiles(
    name: str,
    dtype: str,
    shape: tuple[str | int, ...],
    dims: tuple[str, ...],
    frame: str,
    meaning: str,
    level: int = ZSTD_LEVEL,
) -> ArraySpec:
    return ArraySpec(f"tiles/{name}", dtype, shape, dims, frame, meaning, "tiles", rows=1, level=level)


ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec(
        "images/name_offset", "uint64", ("I+1",), ("image_edge",), "", "where each image's name starts in `name`", "scan"
    ),
    ArraySpec("images/name", "uint8", ("B",), ("name_byte",), "", "UTF-8 names, one after the other", "scan", rows=LONG_ROWS),
    ArraySpec("images/sha256", "uint8", ("I", 32), ("image", "digest"), "", "SHA-256 of the source file", "scan"),
    ArraySpec("images/status", "uint8", ("I",), ("image",), "", "0 used, 1 skipped", "masks"),
    ArraySpec(
        "images/note_offset", "uint64", ("I+1",), ("image_edge",), "", "where each image's note starts in `note`", "masks"
    ),
    ArraySpec(
        "images/note",
        "uint8",
        ("B2",),
        ("note_byte",),
        "",
        "UTF-8: why it was skipped, or what decoding did",
        "masks",
        rows=LONG_ROWS,
    ),
    ArraySpec("images/height", "int32", ("I",), ("image",), "HR", "rows, after the crop to a multiple of the scale", "masks"),
    ArraySpec("images/width", "int32", ("I",), ("image",), "HR", "columns, after the crop", "masks"),
    ArraySpec("images/first_mask", "int64", ("I",), ("image",), "", "row of its first mask in `masks/*`", "masks"),
    ArraySpec("images/n_masks", "int32", ("I",), ("image",), "", "number of its masks", "masks"),
    ArraySpec("images/first_tile", "int64", ("I",), ("image",), "", "row of its first tile in `tiles/*`", "tiles"),
    ArraySpec("images/n_tiles", "int32", ("I",), ("image",), "", "number of its tiles", "tiles"),
    ArraySpec(
        "masks/codes", "float32", ("M", 2), ("mask", "mean"), "HR", "mean of x_RoPE over the mask; times area / (H W)", "masks"
    ),
    ArraySpec("masks/area", "int64", ("M",), ("mask",), "HR", "pixels", "masks"),
    ArraySpec("masks/box_hr", "int32", ("M", 4), ("mask", "x0y0x1y1"), "HR", "bounding box, half-open", "masks"),
    ArraySpec("masks/predicted_iou", "float32", ("M",), ("mask",), "", "the segmenter's own estimate", "masks"),
    ArraySpec("masks/stability", "float32", ("M",), ("mask",), "", "stability score", "masks"),
    ArraySpec("masks/point_hr", "float32", ("M", 2), ("mask", "xy"), "HR", "the prompt that found it; NaN if none", "masks"),
    ArraySpec("masks/crop_box_hr", "int32", ("M", 4), ("mask", "x0y0x1y1"), "HR", "crop it was found in, half-open", "masks"),
    ArraySpec("masks/rle_offset", "uint64", ("M+1",), ("mask_edge",), "", "where each mask's runs start in `rle`", "masks"),
    ArraySpec(
        "masks/rle",
        "uint32",
        ("R",),
        ("run",),
        "HR",
        "COCO runs: column-major, first run zeros; masks overlap",
        "masks",
        rows=LONG_ROWS,
    ),
    _tiles("hr", "uint8", ("N", "T", "T", 3), ("tile", "y_hr", "x_hr", "band"), "HR", "RGB 0..255"),
    _tiles(
        "lr", "uint8", ("N", "t", "t", 3), ("tile", "y_lr", "x_lr", "band"), "LR", "RGB 0..255; cut from the whole image's LR"
    ),
    _tiles(
        "labels",
        "uint16",
        ("N", "T", "T"),
        ("tile", "y_hr", "x_hr"),
        "HR",
        "0 no mask, k the image's k-th mask, later over earlier",
        LABEL_LEVEL,
    ),
    ArraySpec("tiles/place", "int32", ("N", 3), ("tile", "image_y_x"), "HR", "image, y_hr, x_hr of the tile's corner", "tiles"),
)


@dataclass(frozen=True)
class Stage:
    """One step from images to images: what it reads, what it writes."""

    name: str
    command: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    does: str


def _written(stage: str) -> tuple[str, ...]:
    return tuple(spec.path for spec in ARRAYS if spec.stage == stage)


STAGES: tuple[Stage, ...] = (
    Stage("scan", "prepare", ("SOURCE",), _written("scan"), "list the images, hash each file"),
    Stage("masks", "prepare", ("SOURCE", "segmenter weights"), _written("masks"), "decode, crop, segment, encode structure"),
    Stage("tiles", "prepare", ("SOURCE", "masks/rle"), _written("tiles"), "degrade the whole image, cut aligned tiles"),
    Stage(
        "commit", "prepare", ("every file",), (MANIFEST_KEY, "zarr.json"), "record size and SHA-256 of all, write the root last"
    ),
    Stage(
        "rrdb",
        "train",
        ("tiles/hr", "tiles/lr"),
        ("RUN/rrdb.safetensors",),
        "pretrain the RRDB with L1",
    ),
    Stage(
        "diffusion",
        "train",
        ("tiles/hr", "tiles/lr", "tiles/labels", "tiles/place", "images/first_mask", "images/n_masks", "masks/codes"),
        ("RUN/model.safetensors",),
        "train the U-Net on the frozen RRDB's features",
    ),
    Stage("infer", "infer", ("INPUT", "RUN/model.safetensors"), ("OUTPUT",), "super-resolve; neither SAM nor masks"),
)


def tiles_per_shard(tile: int) -> int:
    """Tiles in one shard: a power of two from 64 to 4096 that holds about 16 MiB of raw HR pixels."""
    want = SHARD_BYTES // (tile * tile * 3)
    return min(4096, max(64, 1 << max(0, want.bit_length() - 1)))


def shape_of(spec: ArraySpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Numbers for the letters of `spec.shape`; `sizes` gives I, N, M, R, B, B2, T, t."""
    letters = {**sizes, "I+1": sizes["I"] + 1, "M+1": sizes["M"] + 1}
    return tuple(letters[axis] if isinstance(axis, str) else axis for axis in spec.shape)


def chunk_of(spec: ArraySpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The (inner) chunk: one tile, or a fixed number of rows. Independent of the number of rows, so stores can be compared."""
    return (spec.rows, *shape[1:])


def shard_of(spec: ArraySpec, shape: tuple[int, ...], tile: int) -> tuple[int, ...] | None:
    """The shard of a tile array, None for tables, which are not sharded."""
    return (tiles_per_shard(tile), *shape[1:]) if spec.rows == 1 else None


def sizes_from(metadata: Mapping[str, Document], scale: int) -> dict[str, int]:
    """The letters' values as the arrays' own metadata (path -> zarr.json) state them."""
    first = {path: int(document["shape"][0]) for path, document in metadata.items()}
    tile = int(metadata["tiles/hr"]["shape"][1])
    return {
        "I": first["images/status"],
        "N": first["tiles/hr"],
        "M": first["masks/area"],
        "R": first["masks/rle"],
        "B": first["images/name"],
        "B2": first["images/note"],
        "T": tile,
        "t": tile // scale,
    }


def violations(metadata: Mapping[str, Document], scale: int) -> list[str]:
    """Where array metadata (path -> parsed zarr.json) breaks the contract: one sentence each, empty if it holds."""
    missing = [spec.path for spec in ARRAYS if spec.path not in metadata]
    if missing:
        return [f"{path}: the array is missing" for path in missing]
    sizes = sizes_from(metadata, scale)
    return [problem for spec in ARRAYS for problem in _check_array(spec, metadata[spec.path], sizes)]


def _check_array(spec: ArraySpec, document: Document, sizes: Mapping[str, int]) -> list[str]:
    shape = shape_of(spec, sizes)
    shard = shard_of(spec, shape, sizes["T"])
    codecs = document["codecs"]
    inner = codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs
    found = {
        "shape": tuple(document["shape"]),
        "data type": document["data_type"],
        "dimension names": tuple(document.get("dimension_names") or ()),
        "chunk or shard": tuple(document["chunk_grid"]["configuration"]["chunk_shape"]),
        "last codec": inner[-1]["name"],
    }
    wanted = {
        "shape": shape,
        "data type": spec.dtype,
        "dimension names": spec.dims,
        "chunk or shard": shard or chunk_of(spec, shape),
        "last codec": "crc32c",
    }
    if shard:
        found["inner chunk"] = tuple(codecs[0]["configuration"].get("chunk_shape", ()))
        wanted["inner chunk"] = chunk_of(spec, shape)
    return [
        f"{spec.path}: {what}: expected {wanted[what]}, got {found[what]}" for what in wanted if found[what] != wanted[what]
    ]


def stage_table() -> str:
    """The stages as a Markdown table, as the README shows them."""
    rows = [f"| `{s.name}` | `{s.command}` | {_list(s.reads)} | {_list(s.writes)} | {s.does} |" for s in STAGES]
    return "\n".join(["| stage | command | reads | writes | what it does |", "|---|---|---|---|---|", *rows])


def array_table() -> str:
    """The arrays as a Markdown table, as the documentation shows them."""
    rows = [
        f"| `{a.path}` | {a.dtype} | [{', '.join(str(axis) for axis in a.shape)}] | {a.frame or '-'} | {a.meaning} |"
        for a in ARRAYS
    ]
    return "\n".join(["| array | dtype | shape | frame | meaning |", "|---|---|---|---|---|", *rows])


def _list(paths: tuple[str, ...]) -> str:
    """`images/{height, width}` for several arrays of one group."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        head, _, tail = path.partition("/")
        groups.setdefault(head if tail else path, []).append(tail)
    return ", ".join(
        f"`{head}/{names[0]}`" if len(names) == 1 and names[0] else f"`{head}/{{{', '.join(names)}}}`" if names[0] else head
        for head, names in groups.items()
    )
