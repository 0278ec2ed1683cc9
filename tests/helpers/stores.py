"""Stores made for tests, without images or masks of the real world."""

from pathlib import Path

import numpy as np

from samdiff.pipeline.encode.rle import encode
from samdiff.pipeline.shards.schema import ARRAYS, shape_of
from samdiff.pipeline.shards.writer import StoreWriter
from samdiff.pipeline.storage.local import LocalStore

T = 24


def make_store(path: Path, n: int = 10, scale: int = 4, masks: tuple[int, ...] = (2, 0, 1)) -> Path:
    """Tiles whose pixels are functions of their place: red = tile, green = row, blue = column; LR in LR pixels."""
    y, x = np.mgrid[:T, :T]
    runs = [encode((y < 10 + 5 * k) & (x >= 2 * k)) for count in masks for k in range(count)]  # they overlap
    names = [f"{k}.png".encode() for k in range(len(masks))]
    sizes = {"I": len(masks), "N": n, "M": sum(masks), "R": sum(map(len, runs)), "T": T, "t": T // scale}
    sizes |= {"B": sum(map(len, names)), "B2": 0}
    rows = {spec.path: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in ARRAYS}
    image = np.sort(np.arange(n) % len(masks))
    rows["tiles/hr"] = np.stack([np.stack([np.full_like(y, i), y, x], axis=-1) for i in range(n)]).astype(np.uint8)
    rows["tiles/lr"] = rows["tiles/hr"][:, ::scale, ::scale].copy()
    rows["tiles/lr"][..., 1:] //= scale
    rows["tiles/labels"] = np.stack([(y + x) % (masks[i] + 1) for i in image]).astype(np.uint16)
    rows["tiles/place"][:, 0] = image
    rows["images/n_masks"] = np.array(masks, np.int32)
    rows["images/first_mask"] = np.cumsum(masks) - masks
    rows["images/n_tiles"] = np.bincount(image, minlength=len(masks)).astype(np.int32)
    rows["images/first_tile"] = np.cumsum(rows["images/n_tiles"]) - rows["images/n_tiles"]
    rows["images/name_offset"][1:] = np.cumsum([len(name) for name in names])
    rows["images/name"] = np.frombuffer(b"".join(names), np.uint8)
    rows["masks/codes"] = np.stack([np.arange(sum(masks)) + 0.5, np.arange(sum(masks)) + 0.25], axis=1)
    rows["images/height"][:] = rows["images/width"][:] = T
    rows["masks/rle_offset"][1:] = np.cumsum([len(run) for run in runs])
    rows["masks/rle"] = np.concatenate([np.zeros(0, np.uint32), *runs])
    writer = StoreWriter(LocalStore(path), sizes)
    writer.append(rows)
    writer.commit({"scale": scale, "fingerprint": "f"})
    return path
