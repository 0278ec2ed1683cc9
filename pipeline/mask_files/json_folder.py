"""A folder with one JSON file of masks per image: records of segment-anything, or SA-1B's files, which state their image's name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ...errors import ConfigError, SamdiffError, printable
from .folder import MaskFiles, composed
from .records import Masks, masks_of_records
from .sizes import ImageSize

_HEAD = 65_536  # bytes in which a file states its image
_STATED = re.compile(r'\s*\{\s*"image"\s*:\s*(\{[^{}]*\})')
_SET = re.compile(r'"images"\s*:\s*\[\s*[\]{]')


class JsonFolder(MaskFiles):
    """JSON files, found by the image's name that they state (`image.file_name`, as in SA-1B), by the image's path, or by its stem.

    Args:
        folder: that is searched.

    Raises:
        ConfigError: a subfolder cannot be read, two files state the same image, or a COCO file of a whole set is among them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ".json")
        self._stated: dict[str, str] = {}
        for inside in self.entries():
            head = self.start(inside, _HEAD).decode("utf-8", "replace")
            if len(self) > 1 and _SET.search(head) and not _STATED.match(head):
                raise ConfigError(
                    f"--import-masks {printable(folder)}: holds {printable(inside)}, a COCO file of several images, and files of single "
                    "images; give the COCO file itself, or the folder of the others"
                )
            name = _stated_name(head)
            if name is None:
                continue
            if name in self._stated:
                raise ConfigError(
                    f"--import-masks {printable(folder)}: {printable(self._stated[name])} and {printable(inside)} both state the image "
                    f"{printable(name)}; remove one of them"
                )
            self._stated[name] = inside

    def find(self, name: str) -> tuple[str | None, str]:
        """See `MaskReader`; a file that states this name comes first."""
        inside, expected = super().find(name)
        return self._stated.get(composed(name), inside), expected

    def masks(self, entry: str, name: str, size: ImageSize) -> Masks:
        """See `MaskReader`."""
        document = _parsed(self.content(entry))
        stated, records = None, document
        if isinstance(document, Mapping):
            if isinstance(document.get("images"), list):
                raise SamdiffError("a COCO file of several images; give this file itself to --import-masks")
            records = document.get("masks", document.get("annotations"))
            stated = _stated_size(document.get("image"), name)
        if not isinstance(records, list) or not all(isinstance(item, dict) for item in records):
            raise SamdiffError("expected a list of records with `segmentation` as COCO RLE (amg.py --convert-to-rle)")
        return masks_of_records(records, size, stated)


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError as error:
        raise SamdiffError(f"not readable as JSON ({error})") from error
    except RecursionError as error:
        raise SamdiffError("not readable as JSON (lists within lists, too deep)") from error


def _stated_name(head: str) -> str | None:
    """The image's name that a file states at its start, in composed form; None if there is none."""
    match = _STATED.match(head.removeprefix("\ufeff"))
    if match is None:
        return None
    try:
        name = json.loads(match[1]).get("file_name")
    except (ValueError, RecursionError):
        return None
    return composed(name) if isinstance(name, str) and name else None


def _stated_size(image: object, name: str) -> tuple[int, int] | None:
    """(H, W) of a file's `image`; None if it is not stated.

    Raises:
        SamdiffError: it is the entry of another image, or its size is not valid.
    """
    if not isinstance(image, Mapping):
        return None
    stated = image.get("file_name")
    if isinstance(stated, str) and _stem(stated) != _stem(name):
        raise SamdiffError(f"states that its image is {stated}")
    return size_of(image)


def size_of(image: Mapping[str, object]) -> tuple[int, int] | None:
    """(H, W) of an image's entry in COCO's or SA-1B's form; None if it has none.

    Raises:
        SamdiffError: they are not two positive integers.
    """
    height, width = image.get("height"), image.get("width")
    if height is None and width is None:
        return None
    if type(height) is not int or type(width) is not int or not (0 < height < 1 << 31 and 0 < width < 1 << 31):
        raise SamdiffError(f"height, width: expected positive integers, got {height!r:.40} and {width!r:.40}")
    return height, width


def _stem(name: str) -> str:
    return composed(PurePosixPath(name.replace("\\", "/")).stem)
