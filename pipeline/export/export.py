"""A store for other programs: one HDF5 file, or a folder of PNG pairs, E_SAM arrays and mask files."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...errors import ConfigError, StoreError, missing_package
from ...runtime import progress
from ..shards.reader import Store
from ..shards.schema import tiles_per_shard
from ..shards.writer import canonical
from .hdf5_sink import Sink
from .new_target import check_free, new_file, new_folder, outside_store, write_new
from .safe_names import safe_stems
from .stored_masks import mask_table, used_images

if TYPE_CHECKING:
    import h5py

_TABLE_ROWS = 4096  # rows per HDF5 chunk of a table
_COMMAND = "samdiff export"
_NPY_HEADER = 128  # bytes of the header of a small .npy file


def export_hdf5(store: Store, target: Path) -> None:
    """Export a store as one HDF5 file, which appears when it is complete.

    The file has all arrays of the store under their own names (`tiles/hr`, `masks/codes`, …), compressed and chunked by tile, each with the
    names of its dimensions in the attribute `dims`. The array `tiles/e_sam`, float32 [N, T, T], is added: E_SAM with the mean over the
    mask. The file's attribute `samdiff` holds the store's attributes as JSON.

    Args:
        store: an open store.
        target: the file; must not exist.

    Raises:
        ConfigError: the file exists, or is inside the store.
        BusyError: another process is writing it.
        StoreError: the store is damaged, or the file cannot be written.
        MissingPackageError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_package(error, extra="hdf5", what="HDF5") from error

    target = outside_store(store, target)
    with new_file(target, _COMMAND) as path, Sink(path) as sink:
        with h5py.File(sink, "w") as file:
            _fill(file, store, sink)
        sink.check()


def export_folder(store: Store, target: Path) -> None:
    """Export a store as a folder of images, which appears when it is complete.

    For each tile: `HR/NAME_s001.png`, `LR/NAME_s001.png`, `E_SAM/NAME_s001.npy` (float32 [T, T], mean over the mask), and a line
    `NAME_s001.png (T,T,3)` in `meta_info.txt`, which BasicSR reads. For each image: `masks/NAME.json` in the format of segment-anything's
    `amg.py`. `safe_stems` makes NAME from the image's name.

    Args:
        store: an open store.
        target: the folder; must not exist, or be empty.

    Raises:
        ConfigError: the folder is not empty, or is inside the store; the samples do not fit into PNG.
        BusyError: another process is writing it.
        StoreError: the store is damaged, or the folder cannot be written.
    """
    if store.samples.count not in (1, 3) or store.samples.dtype == "float32":
        raise ConfigError(
            f"{store.place}: PNG holds 1 or 3 bands of 8 or 16 bits, the store has {store.samples.describe()}; export it with --to hdf5"
        )
    target = outside_store(store, target)
    stems = safe_stems(store.names())
    with new_folder(target, _COMMAND) as folder:
        check_free(
            folder, target, len(store) * (4 * store.tile**2 + _NPY_HEADER)
        )  # the size of E_SAM; the size of compressed files is not known
        for name in ("HR", "LR", "E_SAM", "masks"):
            (folder / name).mkdir()
        lines, count = [], Counter[int]()
        for rows, parts in _shards(store):
            for k, image in enumerate(store.table("tiles/place")[rows, 0].tolist()):
                count[image] += 1
                name = f"{stems[image]}_s{count[image]:03d}"
                write_new(folder / "HR", f"{name}.png", _png(parts["hr"][k]))
                write_new(folder / "LR", f"{name}.png", _png(parts["lr"][k]))
                write_new(folder / "E_SAM", f"{name}.npy", _npy(parts["e_sam"][k]))
                lines.append(f"{name}.png ({store.tile},{store.tile},{store.samples.count})\n")
        for image in used_images(store):
            write_new(folder / "masks", f"{stems[image]}.json", json.dumps(mask_table(store, image).records()).encode())
        write_new(folder, "meta_info.txt", "".join(lines).encode())


def _fill(file: h5py.File, store: Store, sink: Sink) -> None:
    """Write all arrays and attributes into an empty HDF5 file."""
    file.attrs["samdiff"] = canonical(store.attrs).decode()
    for spec in store.arrays.values():
        if not spec.path.startswith("tiles/") or spec.path == "tiles/place":
            _dataset(file, spec.path, store.table(spec.path), dims=spec.dims)
            sink.check()
    dims = {spec.path.split("/")[1]: spec.dims for spec in store.arrays.values() if spec.path.startswith("tiles/")}
    dims["e_sam"] = dims["labels"]
    tiles = {}
    for name in (*store.tile_names, "e_sam"):
        tile = store.tile_like("labels" if name == "e_sam" else name)
        dtype = "float32" if name == "e_sam" else tile.dtype
        tiles[name] = file.create_dataset(
            f"tiles/{name}", (len(store), *tile.shape), dtype, chunks=(1, *tile.shape), compression="gzip", shuffle=True
        )
        tiles[name].attrs["dims"] = list(dims[name])
    for rows, parts in _shards(store):
        for name, values in parts.items():
            tiles[name][rows] = values
            sink.check()


def _shards(store: Store) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
    """All tiles with their E_SAM, one shard at a time: (rows, name -> tiles)."""
    first, count = store.table("images/first_mask"), store.table("images/n_masks")
    codes, place = store.table("masks/codes")[:, 0], store.table("tiles/place")[:, 0]
    slots = tiles_per_shard(store.tile)
    for start in progress(range(0, len(store), slots), desc="export", unit="shard"):
        rows = range(start, min(start + slots, len(store)))
        parts = {name: store.read_tiles(name, rows) for name in store.tile_names}
        e_sam = np.zeros(parts["labels"].shape, np.float32)
        for k, row in enumerate(rows):
            image, labels = int(place[row]), parts["labels"][k]
            if not 0 <= image < store.n_images or labels.max(initial=0) > count[image]:
                raise StoreError(
                    f"{store.place}: tile {row} refers to an image or a mask that is not in the store; see `samdiff verify`"
                )
            image_codes = codes[first[image] : first[image] + count[image]]
            e_sam[k] = np.concatenate([np.zeros(1, np.float32), image_codes])[labels]
        yield slice(rows.start, rows.stop), {**parts, "e_sam": e_sam}


def _dataset(file: h5py.File, path: str, values: np.ndarray, *, dims: tuple[str, ...]) -> None:
    if values.size:
        chunks = (min(_TABLE_ROWS, len(values)), *values.shape[1:])
        dataset = file.create_dataset(path, data=values, chunks=chunks, compression="gzip", shuffle=True)
    else:
        dataset = file.create_dataset(path, data=values)
    dataset.attrs["dims"] = list(dims)


def _png(rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))
    assert done
    return data.tobytes()


def _npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)  # into memory: for a file on a full disk, its error lacks the system's reason
    return out.getvalue()
