"""The schema of a store: one table of all arrays, and the stages that read and write them.

A store is a Zarr v3 group. `ARRAYS` lists everything that another program may rely on in format version 1, which holds 8-bit RGB;
`arrays_of` gives the arrays for any samples, those of version 2. The output of `samdiff prepare --dry-run`, the check of each opened store,
the store's metadata and the table in the documentation are made from it.

Sizes: I images, N tiles, M masks, T tile size in HR pixels, t = T / scale, R runs of all masks, B bytes of names, B2 bytes of notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..scientific.sample_format import RGB8, SampleFormat

FORMAT = "samdiff"
FORMAT_VERSION, BANDS_VERSION = 1, 2
"""Of stores of 8-bit RGB, and of stores of any other samples."""

TABLE_ROWS = 65_536  # rows per chunk of a table
LONG_ROWS = 4_194_304  # entries per chunk of a ragged table's values
Document = Mapping[str, Any]
"""A JSON object: a `zarr.json`, its attributes, or a part of them. The values are any JSON values, so code must check those it did not write."""
MANIFEST_KEY = "record"  # the array with the size and SHA-256 of each file
ZSTD_LEVEL = 3  # for images, level 9 saves only 2 to 3 percentage points and takes three times as long (docs/store.md)
LABEL_LEVEL = 12  # label maps are a third smaller than with level 3, and decoded as fast
MAX_TILE = 4096  # HR pixels per side: the largest tile that `prepare` makes
SHARD_BYTES = 16 * 2**20  # target size of a shard of HR tiles, uncompressed


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of the store."""

    path: str
    """`GROUP/NAME`."""
    dtype: str
    """NumPy's name of the type."""
    shape: tuple[str | int, ...]
    """Length of each dimension: a number, or the name of a size (see the module). The first dimension is the rows."""
    dims: tuple[str, ...]
    """Name of each dimension."""
    frame: str
    """`HR` or `LR`: the pixels that coordinates and lengths refer to; empty if none."""
    meaning: str
    """Description for the documentation."""
    stage: str
    """The stage that writes it."""
    rows: int = TABLE_ROWS
    """Rows per chunk. Arrays with 1, the tiles, are sharded."""
    level: int = ZSTD_LEVEL
    """The zstd level. Readers do not need it."""

    @property
    def little(self) -> np.dtype:
        """The dtype in the store, which is little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def group(self) -> str:
        """`images`, `tiles` or `masks`."""
        return self.path.split("/")[0]


def _array(
    path: str,
    axes: Mapping[str, str | int],
    meaning: str,
    *,
    dtype: str,
    frame: str = "",
    stage: str = "masks",
    rows: int = TABLE_ROWS,
    level: int = ZSTD_LEVEL,
) -> ArraySpec:
    """A row of `ARRAYS`; `axes` is the name of each dimension -> its length."""
    shape, dims = tuple(axes.values()), tuple(axes)
    return ArraySpec(
        path=path, dtype=dtype, shape=shape, dims=dims, frame=frame, meaning=meaning, stage=stage, rows=rows, level=level
    )


ARRAYS: tuple[ArraySpec, ...] = (
    _array(
        "images/name_offset", {"image_edge": "I+1"}, "where each image's name starts in `name`", dtype="uint64", stage="scan"
    ),
    _array("images/name", {"name_byte": "B"}, "UTF-8 names, one after the other", dtype="uint8", stage="scan", rows=LONG_ROWS),
    _array("images/sha256", {"image": "I", "digest": 32}, "SHA-256 of the source file", dtype="uint8", stage="scan"),
    _array("images/status", {"image": "I"}, "0 used, 1 skipped", dtype="uint8"),
    _array("images/note_offset", {"image_edge": "I+1"}, "where each image's note starts in `note`", dtype="uint64"),
    _array(
        "images/note", {"note_byte": "B2"}, "UTF-8: why it was skipped, or what decoding did", dtype="uint8", rows=LONG_ROWS
    ),
    _array("images/height", {"image": "I"}, "rows, after the crop to a multiple of the scale", dtype="int32", frame="HR"),
    _array("images/width", {"image": "I"}, "columns, after the crop", dtype="int32", frame="HR"),
    _array("images/first_mask", {"image": "I"}, "row of its first mask in `masks/*`", dtype="int64"),
    _array("images/n_masks", {"image": "I"}, "number of its masks", dtype="int32"),
    _array("images/first_tile", {"image": "I"}, "row of its first tile in `tiles/*`", dtype="int64", stage="tiles"),
    _array("images/n_tiles", {"image": "I"}, "number of its tiles", dtype="int32", stage="tiles"),
    _array(
        "masks/codes", {"mask": "M", "mean": 2}, "mean of x_RoPE over the mask; times area / (H W)", dtype="float32", frame="HR"
    ),
    _array("masks/area", {"mask": "M"}, "pixels", dtype="int64", frame="HR"),
    _array("masks/box_hr", {"mask": "M", "x0y0x1y1": 4}, "bounding box, half-open", dtype="int32", frame="HR"),
    _array("masks/predicted_iou", {"mask": "M"}, "the segmenter's own estimate", dtype="float32"),
    _array("masks/stability", {"mask": "M"}, "stability score", dtype="float32"),
    _array("masks/point_hr", {"mask": "M", "xy": 2}, "point prompt of the mask; NaN if none", dtype="float32", frame="HR"),
    _array("masks/crop_box_hr", {"mask": "M", "x0y0x1y1": 4}, "crop that was segmented, half-open", dtype="int32", frame="HR"),
    _array("masks/rle_offset", {"mask_edge": "M+1"}, "where each mask's runs start in `rle`", dtype="uint64"),
    _array(
        "masks/rle",
        {"run": "R"},
        "COCO runs: column-major, first run zeros; masks overlap",
        dtype="uint32",
        frame="HR",
        rows=LONG_ROWS,
    ),
    _array(
        "tiles/hr",
        {"tile": "N", "y_hr": "T", "x_hr": "T", "band": 3},
        "RGB 0..255",
        dtype="uint8",
        frame="HR",
        stage="tiles",
        rows=1,
    ),
    _array(
        "tiles/lr",
        {"tile": "N", "y_lr": "t", "x_lr": "t", "band": 3},
        "RGB 0..255; cut from the whole image's LR",
        dtype="uint8",
        frame="LR",
        stage="tiles",
        rows=1,
    ),
    _array(
        "tiles/labels",
        {"tile": "N", "y_hr": "T", "x_hr": "T"},
        "0 no mask, k the image's k-th mask, later over earlier",
        dtype="uint16",
        frame="HR",
        stage="tiles",
        rows=1,
        level=LABEL_LEVEL,
    ),
    _array(
        "tiles/place",
        {"tile": "N", "image_y_x": 3},
        "image, y_hr, x_hr of the tile's corner",
        dtype="int32",
        frame="HR",
        stage="tiles",
    ),
)


Arrays = Mapping[str, ArraySpec]
"""Path -> array."""
SPECS: Arrays = {spec.path: spec for spec in ARRAYS}
"""The arrays of format version 1."""
VALID = _array(
    "tiles/valid",
    {"tile": "N", "y_hr": "T", "x_hr": "T"},
    "1 where the HR pixel and the HR pixels that its LR pixel is made of have data",
    dtype="uint8",
    frame="HR",
    stage="tiles",
    rows=1,
)
PLACED = {
    "crs": _array("images/crs", {"image": "I"}, "index in the attribute `crs`; -1: unknown", dtype="int32", stage="tiles"),
    "transform": _array(
        "images/transform",
        {"image": "I", "a_to_f": 6},
        "a to f: x = a column + b row + c, y = d column + e row + f; NaN: unknown",
        dtype="float64",
        frame="HR",
        stage="tiles",
    ),
    "spacing": _array(
        "images/spacing", {"image": "I", "row_column": 2}, "mm; NaN: unknown", dtype="float64", frame="HR", stage="tiles"
    ),
}
"""Arrays of version 2 with what is known of each image's place."""


def version_of(samples: SampleFormat) -> int:
    """The format version of stores of these samples: 2 only where version 1 cannot hold them."""
    return FORMAT_VERSION if samples.is_rgb8 else BANDS_VERSION


def arrays_of(samples: SampleFormat = RGB8) -> Arrays:
    """The arrays of a store: those of version 1, with other types and bands of `tiles/hr` and `tiles/lr`, and what else is known."""
    if samples.is_rgb8:
        return SPECS
    arrays = dict(SPECS)
    for path in ("tiles/hr", "tiles/lr"):
        spec = arrays[path]
        arrays[path] = replace(spec, dtype=samples.dtype, shape=(*spec.shape[:3], samples.count), meaning="see `pixels`")
    more = [VALID] if samples.masked else []
    return arrays | {spec.path: spec for spec in (*more, *(PLACED[place] for place in samples.places))}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the way from training images to super-resolved images."""

    name: str
    command: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    does: str


def _written(stage: str) -> tuple[str, ...]:
    return tuple(spec.path for spec in ARRAYS if spec.stage == stage)


STAGES: tuple[Stage, ...] = (
    Stage(name="scan", command="prepare", reads=("SOURCE",), writes=_written("scan"), does="list the images, hash each file"),
    Stage(
        name="masks",
        command="prepare",
        reads=("SOURCE", "segmenter weights"),
        writes=_written("masks"),
        does="decode, crop, segment, encode structure",
    ),
    Stage(
        name="tiles",
        command="prepare",
        reads=("SOURCE", "masks/rle"),
        writes=_written("tiles"),
        does="degrade the whole image, cut aligned tiles",
    ),
    Stage(
        name="commit",
        command="prepare",
        reads=("every file",),
        writes=(MANIFEST_KEY, "zarr.json"),
        does="record size and SHA-256 of all, write the root last",
    ),
    Stage(
        name="rrdb",
        command="train",
        reads=("tiles/hr", "tiles/lr"),
        writes=("RUN/rrdb.safetensors",),
        does="pretrain the RRDB with L1",
    ),
    Stage(
        name="diffusion",
        command="train",
        reads=("tiles/hr", "tiles/lr", "tiles/labels", "tiles/place", "images/first_mask", "images/n_masks", "masks/codes"),
        writes=("RUN/model.safetensors",),
        does="train the U-Net on the frozen RRDB's features",
    ),
    Stage(
        name="infer",
        command="infer",
        reads=("INPUT", "RUN/model.safetensors"),
        writes=("OUTPUT",),
        does="super-resolve; neither SAM nor masks",
    ),
)


def tiles_per_shard(tile: int) -> int:
    """Tiles in one shard: a power of two from 64 to 4096 that holds about 16 MiB of raw HR pixels."""
    want = SHARD_BYTES // (tile * tile * 3)  # of 8-bit RGB; other samples take more bytes and as many tiles
    return min(4096, max(64, 1 << max(0, want.bit_length() - 1)))


def shape_of(spec: ArraySpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an array in numbers; `sizes` gives I, N, M, R, B, B2, T and t."""
    lengths = {**sizes, "I+1": sizes["I"] + 1, "M+1": sizes["M"] + 1}
    return tuple(lengths[axis] if isinstance(axis, str) else axis for axis in spec.shape)


def chunk_of(spec: ArraySpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a chunk (of an inner chunk, if sharded): one tile, or a fixed number of rows, whatever the size of the store."""
    return (spec.rows, *shape[1:])


def shard_of(spec: ArraySpec, shape: tuple[int, ...], tile: int) -> tuple[int, ...] | None:
    """The shape of a shard of a tile array; None for tables, which are not sharded."""
    return (tiles_per_shard(tile), *shape[1:]) if spec.rows == 1 else None


def stage_table() -> str:
    """The stages as a Markdown table for the documentation."""
    rows = [f"| `{s.name}` | `{s.command}` | {_list(s.reads)} | {_list(s.writes)} | {s.does} |" for s in STAGES]
    return "\n".join(["| stage | command | reads | writes | what it does |", "|---|---|---|---|---|", *rows])


def array_table() -> str:
    """The arrays as a Markdown table for the documentation."""
    rows = [
        f"| `{a.path}` | {a.dtype} | [{', '.join(str(axis) for axis in a.shape)}] | {a.frame or '-'} | {a.meaning} |"
        for a in ARRAYS
    ]
    return "\n".join(["| array | dtype | shape | frame | meaning |", "|---|---|---|---|---|", *rows])


def _list(paths: tuple[str, ...]) -> str:
    """Paths as text; several arrays of one group are shortened to `images/{height, width}`."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        head, _, tail = path.partition("/")
        groups.setdefault(head if tail else path, []).append(tail)
    return ", ".join(
        f"`{head}/{names[0]}`" if len(names) == 1 and names[0] else f"`{head}/{{{', '.join(names)}}}`" if names[0] else head
        for head, names in groups.items()
    )
