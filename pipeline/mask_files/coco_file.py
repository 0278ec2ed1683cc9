"""A COCO file with the masks of many images. One annotation at a time is parsed, so that memory is about the size of the file."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from ...errors import ConfigError, SamdiffError, printable
from .folder import composed
from .json_folder import size_of
from .records import Masks, masks_of_records
from .sizes import ImageSize

_MOST_BYTES = 2**30
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()

Span = tuple[int, int]
"""Start and end of a value in the text."""


class CocoFile:
    """A COCO file: `images` with `id`, `file_name`, `height`, `width`, and `annotations` with `image_id` and `segmentation`.

    A segmentation is a COCO RLE, compressed or not, or a list of polygons. The annotations of an image are painted in the order of the
    file. Categories and scores of detectors are not used.

    Args:
        path: of the file.

    Raises:
        ConfigError: it cannot be read, is too large, is not such a file, lists an image twice, or has an annotation of an unknown image.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = self._content()
        self._digest = hashlib.sha256(data).hexdigest()
        try:
            self._text = data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            self._refuse(f"not UTF-8 ({error})")
        del data
        self._images: dict[str, Mapping[str, object]] = {}
        self._annotations: dict[object, list[Span]] = {}
        self._index()
        self._stems: dict[str, list[str]] = {}
        for name in self._images:
            self._stems.setdefault(composed(PurePosixPath(name).with_suffix("").as_posix()), []).append(name)

    def digest(self) -> str:
        """See `MaskReader`."""
        return self._digest

    def entries(self) -> Sequence[str]:
        """See `MaskReader`: the names of all images of the file."""
        return list(self._images)

    def find(self, name: str) -> tuple[str | None, str]:
        """See `MaskReader`: by the same name, by the path without its suffix, or by the stem alone."""
        plain = PurePosixPath(name.replace("\\", "/"))
        for candidate in (name, composed(name)):
            if candidate in self._images:
                return candidate, name
        for stem in (plain.with_suffix("").as_posix() if plain.name else "", plain.stem):
            found = self._stems.get(composed(stem), [])
            if len(found) > 1:
                raise SamdiffError(f"no masks: several images of {self.path.name} fit, such as {found[0]} and {found[1]}")
            if found:
                return found[0], name
        return None, name

    def masks(self, entry: str, name: str, size: ImageSize) -> Masks:
        """See `MaskReader`. An image without annotations has no masks."""
        image = self._images[entry]
        stated = size_of(image)
        records = [_DECODER.raw_decode(self._text, start)[0] for start, _ in self._annotations.get(image["id"], [])]
        return masks_of_records(records, size, stated)

    def _content(self) -> bytes:
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                self._refuse("expected a file or a folder")
            if status.st_size > _MOST_BYTES:
                self._refuse(f"expected at most {_MOST_BYTES} bytes, got {status.st_size}")
            with self.path.open("rb") as file:
                return file.read(_MOST_BYTES)
        except OSError as error:
            raise ConfigError(f"--import-masks {self.path}: cannot be read ({error.strerror or error})") from error

    def _index(self) -> None:
        """Where the annotations of each image are in the text."""
        ids: dict[object, str] = {}
        seen = set()
        try:
            for key, value, span in _elements(self._text):
                seen.add(key)
                if value is None:
                    continue
                if not isinstance(value, dict):
                    self._refuse(f"{key}: expected objects, got {value!r:.40}")
                identity = value.get("id" if key == "images" else "image_id")
                if not isinstance(identity, int | str):
                    self._refuse(
                        f"{key}: expected {'id' if key == 'images' else 'image_id'} as an integer, got {identity!r:.40}"
                    )
                if key == "annotations":
                    self._annotations.setdefault(identity, []).append(span)
                    continue
                self._add_image(value, identity, ids)
        except (ValueError, RecursionError, IndexError) as error:
            if isinstance(error, SamdiffError):
                raise
            self._refuse(f"not readable as JSON ({type(error).__name__}: {error})")
        if seen != {"images", "annotations"}:
            self._refuse("expected a COCO file, an object with the lists `images` and `annotations`")
        unknown = [identity for identity in self._annotations if identity not in ids]
        if unknown:
            self._refuse(f"annotations of images that it does not list: {len(unknown)}, such as image_id {unknown[0]!r:.40}")

    def _add_image(self, image: Mapping[str, object], identity: object, ids: dict[object, str]) -> None:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            self._refuse(f"images: expected a file_name for id {identity!r:.40}, got {name!r:.40}")
        name = composed(name.replace("\\", "/"))
        if name in self._images:
            self._refuse(f"lists the image {name} twice (id {self._images[name]['id']!r:.40} and {identity!r:.40}); remove one")
        if identity in ids:
            self._refuse(f"lists the id {identity!r:.40} twice ({ids[identity]} and {name}); give each image an id of its own")
        ids[identity] = name
        self._images[name] = {"id": identity, "height": image.get("height"), "width": image.get("width")}

    def _refuse(self, problem: str) -> NoReturn:
        raise ConfigError(f"--import-masks {printable(self.path)}: {printable(problem)}")


def _elements(text: str) -> Iterator[tuple[str, object, Span]]:
    """(`images` or `annotations`, one element of that list, its place in the text), in order; an element None for an empty list.

    Raises:
        ValueError: not a JSON object with these lists.
    """
    at = _after(text, 0, "{")
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        at = _after(text, _space(text, at), ":")
        if key not in ("images", "annotations"):
            _, at = _DECODER.raw_decode(text, at)
        else:
            at = _after(text, at, "[")
            yield key, None, (at, at)
            while text[at] != "]":
                value, end = _DECODER.raw_decode(text, at)
                if value is None:
                    raise ValueError(f"{key}: expected objects, got null")
                yield key, value, (at, end)
                at = _next(text, end, "]")
            at += 1
        at = _next(text, at, "}")
    if _space(text, at + 1) != len(text):
        raise ValueError("text after the end of the object")


def _space(text: str, at: int) -> int:
    """The position after white space."""
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _after(text: str, at: int, mark: str) -> int:
    """The position after a mark and white space."""
    at = _space(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"expected {mark!r} at character {at}, got {text[at : at + 1]!r}")
    return _space(text, at + 1)


def _next(text: str, at: int, end: str) -> int:
    """The position of the next element, or of the end mark."""
    at = _space(text, at)
    if text[at : at + 1] == end:
        return at
    following = _after(text, at, ",")
    if text[following : following + 1] == end:
        raise ValueError(f"a comma before {end!r}")
    return following
