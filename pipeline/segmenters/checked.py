"""A segmenter of the user with its results checked: what it says of itself, and the masks of each image."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ConfigError, SamdiffError, brief, printable
from ..encode.mask_table import MaskTable
from ..encode.rle import CocoMask

_EXPECTED = "expected a MaskTable, or a list of records whose `segmentation` is COCO RLE or bool [H, W]"


class CheckedSegmenter:
    """A segmenter (`MaskSource`) that raises one clear error where the one inside does not keep to the interface.

    Args:
        inner: the user's.
        name: of its class, for errors.

    Raises:
        ConfigError: it has no `describe` or no `generate_batch`.
    """

    def __init__(self, inner: Any, name: str) -> None:
        self.inner, self.name = inner, name
        for method, purpose in (("describe", "the facts that decide the masks"), ("generate_batch", "the masks of images")):
            if not callable(getattr(inner, method, None)):
                raise ConfigError(f"--sam {name}: the class has no method `{method}`, which returns {purpose} (docs/masks.md)")

    def describe(self) -> dict[str, object]:
        """The facts of the one inside.

        Raises:
            ConfigError: they are no dict of JSON values with a text as `name`.
        """
        facts = self.inner.describe()
        if not isinstance(facts, Mapping) or not isinstance(facts.get("name"), str):
            raise ConfigError(f"--sam {self.name}: describe: expected a dict with a text as `name`, got {brief(facts)}")
        try:
            json.dumps(dict(facts), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--sam {self.name}: describe: expected JSON values ({printable(error)[:200]})") from error
        return dict(facts)

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """Masks of uint8 [H, W, 3] images, in order.

        Raises:
            SamdiffError: a result of another type, shape or dtype, or another number of results than images.
        """
        sizes: deque[tuple[int, int]] = deque()

        def noted() -> Iterator[np.ndarray]:
            for image in images:
                sizes.append((image.shape[0], image.shape[1]))
                yield image

        for masks in self.inner.generate_batch(noted()):
            if not sizes:
                raise SamdiffError(f"--sam {self.name}: generate_batch returned more results than images")
            yield self._table(masks, *sizes.popleft())
        if sizes:
            raise SamdiffError(f"--sam {self.name}: generate_batch returned {len(sizes)} results fewer than images")

    def _table(self, masks: Any, height: int, width: int) -> MaskTable:
        where = f"--sam {self.name}: generate_batch, an image of {height} x {width} (H x W)"
        if not isinstance(masks, MaskTable):
            if isinstance(masks, str | bytes | Mapping) or not isinstance(masks, Sequence):
                raise SamdiffError(f"{where}: {_EXPECTED}; got {_shape(masks)}")
            for number, record in enumerate(masks):
                _check_record(record, (height, width), f"{where}: mask {number}")
        try:
            return _checked_columns(MaskTable.of(masks, height, width))
        except (SamdiffError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise SamdiffError(f"{where}: {printable(error)[:300]}") from error


def _check_record(record: CocoMask | object, size: tuple[int, int], where: str) -> None:
    found = record.get("segmentation") if isinstance(record, Mapping) else None
    if isinstance(found, np.ndarray) and found.dtype == np.bool_ and found.shape == size:
        return
    if not isinstance(found, Mapping) or not {"size", "counts"} <= set(found):
        got = _shape(record) if found is None else f"a segmentation {_shape(found)}"
        raise SamdiffError(f"{where}: {_EXPECTED}; got {got}")


def _checked_columns(table: MaskTable) -> MaskTable:
    """A table of the user's own making may have columns of any shape.

    Raises:
        SamdiffError: a column has another shape or dtype than `MaskTable` states.
    """
    n = len(table.counts)
    shapes = {"area": (n,), "box": (n, 4), "predicted_iou": (n,), "stability": (n,), "point": (n, 2), "crop_box": (n, 4)}
    for name, shape in shapes.items():
        column = getattr(table, name)
        if not isinstance(column, np.ndarray) or column.shape != shape or column.dtype.kind not in "iuf":
            raise SamdiffError(f"{name}: expected an array of numbers {list(shape)}, got {_shape(column)}")
    for number, counts in enumerate(table.counts):
        if not isinstance(counts, np.ndarray) or counts.ndim != 1 or counts.dtype != np.uint32:
            raise SamdiffError(f"counts of mask {number}: expected runs as uint32 [R], got {_shape(counts)}")
        if int(counts.sum(dtype=np.int64)) != table.height * table.width:
            raise SamdiffError(f"counts of mask {number}: expected runs of {table.height * table.width} pixels in all")
    return table


def _shape(value: object) -> str:
    """Type, dtype and shape of a value, for an error."""
    if isinstance(value, np.ndarray) or hasattr(value, "dtype"):
        return f"{type(value).__name__} {getattr(value, 'dtype', '')} {list(getattr(value, 'shape', []))}"
    return brief(value)
