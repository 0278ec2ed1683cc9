"""A store for other programs: one HDF5 file, or a folder of PNG pairs, E_SAM arrays and mask files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ..errors import ConfigError
from ..runtime import progress
from .contract import ARRAYS, tiles_per_shard
from .keystore import unwritable
from .mask_table import MaskTable
from .shards import canonical
from .store import Store

_TABLE_ROWS = 4096  # rows per HDF5 chunk of a table


def export_hdf5(store: Store, target: Path) -> None:
    """All arrays under their own names (`tiles/hr`, `masks/codes`, …), chunked by tile and compressed, with `dims` and the
    store's attributes as JSON in the file's attribute `samdiff`. Besides, `tiles/e_sam` float32 [N, T, T] is E_SAM by the mean over
    the mask, for programs that look nothing up.

    Raises:
        ConfigError: the file exists.
        StoreError: the store is damaged, or the file cannot be written.
    """
    import h5py

    if target.exists():
        raise ConfigError(f"{target}: exists already; give another name")
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            file.attrs["samdiff"] = canonical(store.attrs).decode()
            for spec in ARRAYS:
                if spec.path.startswith("tiles/") and spec.path != "tiles/place":
                    continue
                _dataset(file, spec.path, store.table(spec.path), spec.dims)
            shapes = {name: store.read_tiles(name, range(min(1, len(store)))).shape[1:] for name in ("hr", "lr", "labels")}
            tiles = {
                name: file.create_dataset(
                    f"tiles/{name}", (len(store), *shape), dtype, chunks=(1, *shape), compression="gzip", shuffle=True
                )
                for name, shape, dtype in (
                    ("hr", shapes["hr"], "uint8"),
                    ("lr", shapes["lr"], "uint8"),
                    ("labels", shapes["labels"], "uint16"),
                    ("e_sam", shapes["labels"], "float32"),
                )
            }
            for spec in ARRAYS:
                if spec.path in {f"tiles/{name}" for name in tiles}:
                    tiles[spec.path.split("/")[1]].attrs["dims"] = list(spec.dims)
            tiles["e_sam"].attrs["dims"] = ["tile", "y_hr", "x_hr"]
            for rows, parts in _portions(store):
                for name, values in parts.items():
                    tiles[name][rows] = values
        partial.replace(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        partial.unlink(missing_ok=True)


def export_folder(store: Store, target: Path) -> None:
    """`HR/NAME_s001.png`, `LR/NAME_s001.png`, `E_SAM/NAME_s001.npy` (float32 [T, T], mean over the mask), `meta_info.txt` (one line
    `NAME_s001.png (T,T,3)` per tile, as BasicSR reads it) and `masks/NAME.json` per image, as segment-anything's `amg.py` writes it.

    Raises:
        ConfigError: the folder exists and is not empty.
        StoreError: the store is damaged, or the folder cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: exists already; give the name of a new or an empty folder")
    stems = _stems(store.names())
    try:
        for name in ("HR", "LR", "E_SAM", "masks"):
            (target / name).mkdir(parents=True, exist_ok=True)
        place, first = store.table("tiles/place"), store.table("images/first_tile")
        lines = []
        for rows, parts in _portions(store):
            for k, row in enumerate(range(rows.start, rows.stop)):
                image = int(place[row, 0])
                name = f"{stems[image]}_s{row - int(first[image]) + 1:03d}"
                _write_png(target / "HR" / f"{name}.png", parts["hr"][k])
                _write_png(target / "LR" / f"{name}.png", parts["lr"][k])
                np.save(target / "E_SAM" / f"{name}.npy", parts["e_sam"][k])
                lines.append(f"{name}.png ({store.tile},{store.tile},3)\n")
        for image in np.flatnonzero(store.table("images/status") == 0).tolist():
            (target / "masks" / f"{stems[image]}.json").write_text(json.dumps(mask_table(store, image).records()))
        (target / "meta_info.txt").write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise unwritable(target, error) from error


def mask_table(store: Store, image: int) -> MaskTable:
    """The overlapping masks of one image as the segmenter gave them."""
    first, count = int(store.table("images/first_mask")[image]), int(store.table("images/n_masks")[image])
    mine = slice(first, first + count)
    columns = ("area", "box_hr", "predicted_iou", "stability", "point_hr", "crop_box_hr")
    height, width = int(store.table("images/height")[image]), int(store.table("images/width")[image])
    return MaskTable(height, width, store.masks(image), *(store.table(f"masks/{name}")[mine] for name in columns))


def _portions(store: Store) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """All tiles with their E_SAM, a shard at a time."""
    first, codes = store.table("images/first_mask"), store.table("masks/codes")[:, 0]
    slots = tiles_per_shard(store.tile)
    for start in progress(range(0, len(store), slots), desc="export", unit="shard"):
        rows = range(start, min(start + slots, len(store)))
        parts = {name: store.read_tiles(name, rows) for name in ("hr", "lr", "labels")}
        e_sam = np.zeros(parts["labels"].shape, np.float32)
        for k, row in enumerate(rows):
            image = int(store.table("tiles/place")[row, 0])
            mine = codes[first[image] : first[image] + store.table("images/n_masks")[image]]
            e_sam[k] = np.concatenate([np.zeros(1, np.float32), mine])[parts["labels"][k]]
        yield slice(rows.start, rows.stop), {**parts, "e_sam": e_sam}


def _dataset(file: object, path: str, values: np.ndarray, dims: tuple[str, ...]) -> None:
    import h5py

    assert isinstance(file, h5py.File)
    if values.size:
        chunks = (min(_TABLE_ROWS, len(values)), *values.shape[1:])
        made = file.create_dataset(path, data=values, chunks=chunks, compression="gzip", shuffle=True)
    else:
        made = file.create_dataset(path, data=values)
    made.attrs["dims"] = list(dims)


def _write_png(path: Path, rgb: np.ndarray) -> None:
    done, data = cv2.imencode(".png", rgb[..., ::-1])
    assert done
    path.write_bytes(data.tobytes())


def _stems(names: list[str]) -> list[str]:
    """File names without suffix and folders, told apart where that makes two equal."""
    stems: list[str] = []
    seen: set[str] = set()
    for name in names:
        plain = "_".join(PurePosixPath(name).with_suffix("").parts)
        stem, number = plain, 2
        while stem in seen:
            stem, number = f"{plain}-{number}", number + 1
        seen.add(stem)
        stems.append(stem)
    return stems
