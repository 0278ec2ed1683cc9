"""Masks made elsewhere as a segmenter for `prepare`: `--import-masks`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ...errors import ChangedError, ConfigError, SamdiffError, printable
from ..encode.mask_table import MaskTable
from .coco_file import CocoFile
from .json_folder import JsonFolder
from .label_folder import LabelFolder
from .records import MaskReader
from .sizes import ImageSize

_LONGEST_REASON = 400  # characters


def open_masks(path: Path) -> MaskReader:
    """The masks at a path: a COCO file, or a folder with a JSON file or, if it has none, a label map (PNG) for each image.

    Raises:
        ConfigError: it is none of these.
    """
    if not path.is_dir():
        return CocoFile(path)
    files = JsonFolder(path)
    labels = files if len(files) else LabelFolder(path)
    if not len(labels):
        raise ConfigError(
            f"--import-masks {path}: expected a folder with NAME.json for each image, or with label maps NAME.png, or a COCO file; found none"
        )
    return labels


class ImportedMasks:
    """Masks in files: segment-anything's records, SA-1B's or COCO's files, or label maps. Later masks cover earlier ones.

    Args:
        path: see `open_masks`.
        scale: images and masks are cropped to a multiple of it.

    Raises:
        ConfigError: there are no masks at the path.
    """

    def __init__(self, path: Path, scale: int) -> None:
        self.scale = scale
        self.folder = path
        self._files = open_masks(path)
        self._next: deque[MaskTable] = deque()

    def describe(self) -> dict[str, object]:
        """A digest of all files, in place of the unknown segmenter."""
        return {"name": "imported", "masks_from": "files", "masks_sha256": self._files.digest()}

    def expect(self, name: str, height: int, width: int) -> str | None:
        """Read the masks of an image, before it is passed to `generate_batch`; returns why there are none, None if there are.

        Raises:
            ChangedError: its file changed after `describe`.
        """
        entry = None
        try:
            entry, other = self._files.find(name)
            if entry is None:
                return f"no masks: expected {printable(other)} in {self._place()}"
            masks = self._files.masks(entry, name, ImageSize(height, width, self.scale))
            self._next.append(
                MaskTable.of_runs([runs for runs, _ in masks], [more for _, more in masks], height=height, width=width)
            )
        except ChangedError:
            raise
        except SamdiffError as error:
            return _shortened(f"its masks {entry}: {error}" if entry is not None else str(error))
        except Exception as error:  # noqa: BLE001 - an untrusted file can raise exceptions of any type; they become its reason
            return _shortened(f"its masks {entry}: {type(error).__name__}: {error}")
        return None

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[MaskTable]:
        """The masks of each image, in order; `expect` must have been called for each."""
        for _ in images:
            yield self._next.popleft()

    def unmatched(self, names: Iterable[str]) -> Sequence[str]:
        """The entries that belong to none of these images, in order."""
        used = set()
        for name in names:
            try:
                used.add(self._files.find(name)[0])
            except SamdiffError:  # several entries fit: `expect` reports it
                continue
        return [entry for entry in self._files.entries() if entry not in used]

    def _place(self) -> str:
        return "the folder of --import-masks" if self.folder.is_dir() else f"the COCO file {printable(self.folder.name)}"


def _shortened(reason: str) -> str:
    """A reason for the store: printable, at most 400 characters."""
    shown = printable(reason)
    return shown if len(shown) <= _LONGEST_REASON else f"{shown[:_LONGEST_REASON]}…"
