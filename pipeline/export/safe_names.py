"""Safe file names for the images of a store, whose own names may be anything, because a store may be untrusted."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

STEM_BYTES = 200
"""Limit of a stem in bytes of UTF-8: file systems allow 255 bytes, and `_s0000000001.json` is appended."""

_REFUSED = frozenset('/\\:*?"<>|')  # characters with a meaning in paths or on some file system
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")
_DIGEST = 16  # hexadecimal digits of the SHA-256 in a shortened stem


def safe_stems(names: Sequence[str]) -> list[str]:
    """A unique file name without suffix for each name, as a function of the names.

    `deep/a.png` becomes `deep_a`. Separators, spaces (at which programs split the lines of `meta_info.txt`), invisible characters, those
    that file systems refuse, and a leading dot become `_`. A stem longer than `STEM_BYTES` is shortened, and a part of the name's SHA-256 is
    appended. If two stems are equal, or equal on a case-insensitive disk, `-2` and so on is appended.

    Args:
        names: any texts, which may be empty, equal, or have surrogates.
    """
    stems: list[str] = []
    seen: set[str] = set()
    next_number: dict[str, int] = {}
    for name in names:
        base = stem = _stem(name)
        while _folded(stem) in seen:
            number = next_number.get(_folded(base), 2)
            next_number[_folded(base)] = number + 1
            stem = f"{base}-{number}"
        seen.add(_folded(stem))
        stems.append(stem)
    return stems


def _stem(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts:
        base, dot, _ = parts[-1].rpartition(".")
        parts[-1] = base if dot and base else parts[-1]
    joined = unicodedata.normalize("NFC", "_".join(parts))
    shown = "".join(
        "_" if character in _REFUSED or unicodedata.category(character) in _INVISIBLE else character for character in joined
    )
    if shown.startswith("."):
        shown = f"_{shown[1:]}"
    encoded = shown.encode("utf-8")
    if len(encoded) > STEM_BYTES:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
        shown = f"{encoded[: STEM_BYTES - _DIGEST - 1].decode('utf-8', 'ignore')}-{digest}"
    return shown or "image"


def _folded(stem: str) -> str:
    """The form that a case-insensitive disk compares."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())
