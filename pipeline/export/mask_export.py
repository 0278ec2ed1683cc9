"""The masks of a store without its pixels: COCO RLE as JSON, and label maps as npz."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...runtime import progress
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask, paint_labels
from ..shards.reader import Store
from .new_target import new_folder, outside_store, write_new
from .safe_names import safe_stems
from .stored_masks import mask_table, used_images

COCO_FILE, IMAGE_FOLDER = "coco.json", "images"
"""Names in the folder that `export_masks` writes."""
_COMMAND = "samdiff export"


def export_masks(store: Store, target: Path) -> None:
    """Export all masks of a store as a folder, which appears when it is complete. It has no pixels.

    `coco.json` is one COCO file for the whole store, as pycocotools opens it: an annotation per mask, in painting order, with the mask as
    compressed RLE. `images/NAME.json` has the masks of one image in SA-1B's form: `image` with `file_name`, `height` and `width`, and
    segment-anything's records as `annotations`. `prepare --import-masks` reads both. Skipped images are left out.

    Args:
        store: an open store.
        target: the folder; must not exist, or be empty.

    Raises:
        ConfigError: the folder is not empty, or is inside the store.
        BusyError: another process is writing it.
        StoreError: the store is damaged, or the folder cannot be written.
    """
    target = outside_store(store, target)
    names, stems = store.names(), safe_stems(store.names())
    with new_folder(target, _COMMAND) as folder, open(folder / COCO_FILE, "x", encoding="ascii", newline="\n") as coco:
        (folder / IMAGE_FOLDER).mkdir()
        images = [_image(store, row, names[row]) for row in used_images(store)]
        coco.write(_coco_head(store, images))
        number = 0
        for image in progress(images, desc="export", unit="image"):
            row = int(image["id"]) - 1
            table = mask_table(store, row)
            records = [finite(record) for record in table.records()]
            document = {
                "image": {"file_name": names[row], "height": table.height, "width": table.width},
                "annotations": records,
            }
            write_new(folder / IMAGE_FOLDER, f"{stems[row]}.json", json.dumps(document, allow_nan=False).encode())
            for line in _annotations(table, records, image=row + 1, first=number + 1):
                coco.write((",\n" if number else "\n") + line)
                number += 1
        coco.write("\n]}\n")


def export_labels(store: Store, target: Path) -> None:
    """Export the label map of each whole image as a folder of `NAME.npz`, which appears when it is complete. It has no pixels.

    Each file has `labels` uint16 [H, W] (0 no mask, k the k-th mask, later over earlier), `codes` float32 [M, 2] (E_SAM of mask k is
    `codes[k - 1, 0]`), and `name`, the image's name. Overlaps of masks are lost; `export_masks` keeps them.

    Args:
        store: see `export_masks`.
        target: see `export_masks`.

    Raises:
        ConfigError: see `export_masks`.
        BusyError: see `export_masks`.
        StoreError: see `export_masks`.
    """
    target = outside_store(store, target)
    names, stems = store.names(), safe_stems(store.names())
    with new_folder(target, _COMMAND) as folder:
        for row in progress(used_images(store), desc="export", unit="image"):
            table, first = mask_table(store, row), int(store.table("images/first_mask")[row])
            labels = paint_labels(table.counts, table.height, table.width)
            data = io.BytesIO()
            codes = store.table("masks/codes")[first : first + len(table)]
            np.savez_compressed(data, labels=labels, codes=codes, name=np.array(names[row]))
            write_new(folder, f"{stems[row]}.npz", data.getvalue())


def finite(record: CocoMask) -> CocoMask:
    """A record of segment-anything without the values that are NaN, because JSON has none."""
    return {key: value for key, value in record.items() if not _has_nan(value)}


def _has_nan(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _image(store: Store, row: int, name: str) -> dict[str, int | str]:
    """An entry of COCO's `images`; ids are rows of the store, counted from 1."""
    height, width = (int(store.table(f"images/{side}")[row]) for side in ("height", "width"))
    return {"id": row + 1, "file_name": name, "height": height, "width": width}


def _coco_head(store: Store, images: list[dict[str, int | str]]) -> str:
    """The start of the COCO file, up to the list of annotations."""
    info = {
        "description": "masks of a samdiff store",
        "segmenter": store.attrs.get("segmenter"),
        "fingerprint": store.fingerprint,
    }
    categories = [{"id": 1, "name": "mask", "supercategory": ""}]
    listed = ",\n".join(map(json.dumps, images))
    return (
        f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": [\n{listed}\n],\n"annotations": ['
    )


def _annotations(table: MaskTable, records: list[CocoMask], *, image: int, first: int) -> Iterator[str]:
    """COCO's annotations of one image as JSON: ids from `first`, and boxes [x, y, w, h] that cover all pixels."""
    for k, record in enumerate(records):
        x0, y0, x1, y1 = table.box[k].tolist()
        more = {"id": first + k, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        yield json.dumps({**record, **more}, allow_nan=False)
