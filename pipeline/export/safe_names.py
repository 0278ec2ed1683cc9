"""File names for the images of a store, whatever their own names are: a store may come from a stranger."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

STEM_BYTES = 200
"""Longest stem in UTF-8: file systems take 255 bytes, and `_s0000000001.json` comes after it."""

_REFUSED = frozenset('/\\:*?"<>|')  # what a path or some file system gives a meaning to
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")
_DIGEST = 16  # hexadecimal digits that tell two long names apart


def safe_stems(names: Sequence[str]) -> list[str]:
    """One file name without suffix for each name, all different, by the names alone.

    `deep/a.png` becomes `deep_a`. Separators, spaces, invisible characters and those that file systems refuse become `_` (programs that read
    `meta_info.txt` cut its lines at spaces), a leading dot too. A stem of more than `STEM_BYTES` is cut and gets a piece of the
    name's SHA-256. Where two stems would be equal, or equal on a disk that does not tell A from a, the second gets `-2` and so on.

    Args:
        names: any text, also empty, equal or with surrogates.
    """
    stems: list[str] = []
    seen: set[str] = set()
    next_number: dict[str, int] = {}
    for name in names:
        plain = stem = _stem(name)
        while _folded(stem) in seen:
            number = next_number.get(_folded(plain), 2)
            next_number[_folded(plain)] = number + 1
            stem = f"{plain}-{number}"
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
    """What a disk that ignores case and composition compares."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", stem).casefold())
