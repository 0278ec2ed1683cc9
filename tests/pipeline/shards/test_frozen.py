"""A store of format version 1 as samdiff 0.1 wrote it, frozen: every later version reads it, verifies it, and makes the same one.

Writer and reader could drift together without it. `golden/format1.zip` holds the source images, the store, and the SHA-256 of every array.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samdiff import open_store
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import Store
from samdiff.pipeline.shards.verify import verify_store

FROZEN = Path(__file__).parents[2] / "golden" / "format1.zip"


class FrozenBoxes:
    """The segmenter of the frozen store: three overlapping boxes, nothing on white."""

    def describe(self) -> dict[str, Any]:
        return {"name": "frozen-boxes"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        for image in images:
            height, width = image.shape[:2]
            boxes = [((2, 20, 3, 30), 0.9), ((8, height, 0, 12), 0.8), ((0, 5, 0, width), 0.7)]
            yield [] if image[0, 0, 0] == 255 else [self._record(box, iou, height, width) for box, iou in boxes]

    def _record(self, box: tuple[int, ...], iou: float, height: int, width: int) -> dict[str, Any]:
        y0, y1, x0, x1 = box
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
        runs = np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=0, append=0)), prepend=0).tolist()
        rest = height * width - sum(runs)
        return {
            "segmentation": {"size": [height, width], "counts": [*runs, *([rest] if rest else [])]},
            "predicted_iou": iou,
            "stability_score": iou / 2 + 0.5,
            "point_coords": [[x0 + 0.5, y0 + 0.5]],
            "crop_box": [0, 0, width, height],
        }


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    with zipfile.ZipFile(FROZEN) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def arrays(store: Store) -> dict[str, dict[str, Any]]:
    found = {}
    for path in json.loads((store_path(store).parent / "arrays.json").read_text())["arrays"]:
        tiles = path in ("tiles/hr", "tiles/lr", "tiles/labels")
        array = store.read_tiles(path.split("/")[1], range(len(store))) if tiles else store.table(path)
        found[path] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": hashlib.sha256(array.tobytes()).hexdigest(),
        }
    return found


def store_path(store: Store) -> Path:
    return Path(str(store.place))


def test_every_array_is_read_as_it_was_written(frozen: Path) -> None:
    expected = json.loads((frozen / "arrays.json").read_text())
    store = open_store(frozen / "store.zarr")
    assert arrays(store) == expected["arrays"]
    assert (store.fingerprint, store.names(), store.skipped()) == tuple(
        expected[k] for k in ("fingerprint", "names", "skipped")
    )
    assert [len(store.masks(image)) for image in range(store.n_images)] == [3, 0, 0, 3]


def test_it_is_sound(frozen: Path) -> None:
    assert not verify_store(frozen / "store.zarr", deep=True)


def test_the_same_images_and_settings_make_the_same_store(frozen: Path) -> None:
    prepare(frozen / "source", frozen / "again.zarr", FrozenBoxes(), PrepareConfig(scale=2, tile=16))
    before, again = open_store(frozen / "store.zarr"), open_store(frozen / "again.zarr")
    assert again.fingerprint == before.fingerprint
    reworded = ("images/note", "images/note_offset")  # reasons for people: their words may get better
    assert {k: v for k, v in arrays(again).items() if k not in reworded} == {
        k: v for k, v in arrays(before).items() if k not in reworded
    }
    skip = ("software", "digests")  # versions; and bytes, which the compressor's release may change
    assert {k: v for k, v in again.attrs.items() if k not in skip} == {k: v for k, v in before.attrs.items() if k not in skip}
