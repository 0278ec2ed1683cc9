"""JSON files with masks of other programs: matched by image name, limited in size, each value checked before it is used."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ...errors import ConfigError, SamdiffError, printable
from ..encode.rle import MAX_MASKS, CocoMask
from ..images.archives import reason_of
from ..images.listing import walk
from ..images.unchanged import changed

_MOST_BYTES = 128 * 2**20  # of one file; it takes some ten times as much while it is parsed
_LARGEST_SIDE = 1 << 30  # of a box, so that its sums stay in int32
_LARGEST_NUMBER = 3e38  # within float32


class MaskFiles:
    """The JSON files in a folder and its subfolders, listed once.

    Args:
        folder: that is searched.

    Raises:
        ConfigError: it has no JSON files, or a subfolder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(_json_files(folder))
        self._paths = {path.relative_to(folder).as_posix(): path for path in files}
        if not self._paths:
            raise ConfigError(f"--import-masks {folder}: expected a folder with NAME.json for each image, found none")
        self._composed = {unicodedata.normalize("NFC", inside): inside for inside in self._paths}
        self._digests: dict[str, bytes] = {}

    def digest(self) -> str:
        """SHA-256 of all names and contents, hexadecimal."""
        total = hashlib.sha256()
        for inside, path in self._paths.items():
            total.update(f"{inside}\0".encode("utf-8", "surrogateescape"))
            if inside not in self._digests:  # once: what a run records is what it reads
                self._digests[inside] = _digest(path)
            total.update(self._digests[inside])
        return total.hexdigest()

    def find(self, name: str) -> tuple[str | None, str]:
        """The file of an image, by its path or else by its stem, relative to the folder; None, and the name that was expected.

        Names are equal if their NFC forms are: macOS writes decomposed letters, other systems composed ones.
        """
        plain = PurePosixPath(name.replace("\\", "/"))
        if not plain.name:
            return None, f"{name}.json"
        names = (plain.with_suffix(".json").as_posix(), f"{plain.stem}.json")
        composed = [self._composed.get(unicodedata.normalize("NFC", inside)) for inside in names]
        own = [inside if inside in self._paths else other for inside, other in zip(names, composed, strict=True)]
        return next(filter(None, own), None), PurePosixPath(names[0]).name

    def records(self, inside: str) -> list[dict[str, object]]:
        """Records of a file, checked as far as their number and `segmentation`.

        Raises:
            SamdiffError: it is not such a file.
            ChangedError: it is not the file that `digest` read.
        """
        path, before = self._paths[inside], self._digests.get(inside)
        try:
            data = _content(path)
        except OSError as error:
            if before not in (None, _unreadable(error)):
                raise changed(str(path), error.strerror or str(error)) from error
            raise SamdiffError(f"cannot be read ({error.strerror or error})") from error
        if before not in (None, hashlib.sha256(data).digest()):
            raise changed(str(path), "its bytes differ from those of the scan")
        return _parsed(data)


def _parsed(data: bytes) -> list[dict[str, object]]:
    try:
        records = json.loads(data)
    except ValueError as error:
        raise SamdiffError(f"not readable as JSON ({error})") from error
    except RecursionError as error:
        raise SamdiffError("not readable as JSON (lists within lists, too deep)") from error
    if isinstance(records, dict):
        records = records.get("masks", records.get("annotations"))
    if not isinstance(records, list) or not all(
        isinstance(item, dict) and isinstance(item.get("segmentation"), dict) for item in records
    ):
        raise SamdiffError("expected a list of records with `segmentation` as COCO RLE (amg.py --convert-to-rle)")
    if len(records) > MAX_MASKS:
        raise SamdiffError(f"expected at most {MAX_MASKS} masks (labels are uint16), got {len(records)}")
    return records


def checked_record(record: CocoMask) -> dict[str, object]:
    """The optional keys of a record, without `segmentation`: finite numbers in segment-anything's shapes; null and NaN are left out.

    Raises:
        SamdiffError: a value of another type, shape or range.
    """
    kept: dict[str, object] = {}
    for key in ("predicted_iou", "stability_score"):
        value = record.get(key)
        if value is None or _is_nan(value):
            continue
        if not _is_number(value):
            raise SamdiffError(f"{key}: expected a finite number, got {_shown(value)}")
        kept[key] = float(value)
    points = record.get("point_coords")
    if points is not None and points != []:
        point = points[0] if isinstance(points, list) else points
        if not (isinstance(point, list) and len(point) == 2 and all(_is_number(v) or _is_nan(v) for v in point)):
            raise SamdiffError(f"point_coords: expected [[x, y]], 2 numbers, got {_shown(points)}")
        if not any(map(_is_nan, point)):
            kept["point_coords"] = [[float(value) for value in point]]
    box = record.get("crop_box")
    if box is not None and box != []:
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_side, box))):
            raise SamdiffError(f"crop_box: expected [x, y, w, h], 4 numbers of whole pixels >= 0, got {_shown(box)}")
        kept["crop_box"] = [int(value) for value in box]
    return kept


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_side(value: object) -> bool:
    """Whether it is a whole number of pixels."""
    return isinstance(value, int | float) and _is_number(value) and 0 <= value <= _LARGEST_SIDE and value == int(value)


def _shown(value: object) -> str:
    """A value as JSON, cut after 80 characters."""
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__} that is very deep or long"
    return text if len(text) <= 80 else f"{text[:80]}…"


def _content(path: Path) -> bytes:
    """The bytes of a regular file of limited length, read once and without blocking.

    Raises:
        SamdiffError: it is too long, or not a regular file.
    """
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SamdiffError("expected a regular file")
        data = b"" if status.st_size > _MOST_BYTES else file.read(_MOST_BYTES + 1)
    if status.st_size > _MOST_BYTES or len(data) > _MOST_BYTES:
        raise SamdiffError(f"expected at most {_MOST_BYTES} bytes, got {max(status.st_size, len(data))}")
    return data


def _digest(path: Path) -> bytes:
    """SHA-256 of the content; of the reason if the file is too long or cannot be read."""
    try:
        return hashlib.sha256(_content(path)).digest()
    except SamdiffError as error:
        return hashlib.sha256(f"refused: {error}".encode()).digest()
    except OSError as error:
        return _unreadable(error)


def _unreadable(error: OSError) -> bytes:
    return hashlib.sha256(f"unreadable: {error.strerror}".encode()).digest()


def _json_files(folder: Path) -> Iterator[Path]:
    """`*.json` in a folder and below, in linked folders too, each of them once.

    Raises:
        ConfigError: a folder cannot be read.
    """
    for entry in walk(folder):
        if entry.error is not None and not isinstance(entry.error, FileNotFoundError | NotADirectoryError):
            raise ConfigError(
                f"--import-masks {printable(entry.path)}: a folder that cannot be read ({reason_of(entry.error)}), so masks may be missing; "
                "make it readable, or move it away"
            )
        if not entry.is_folder and entry.path.suffix == ".json" and entry.path.is_file():
            yield entry.path
