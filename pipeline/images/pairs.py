"""Matches LR files to HR files, by name, then by size; all commands use it. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

_LISTED = 3  # names that a message lists
_KINDS = "bicubic|bic|bi|bd|dn|nearest|unknown|mild|wild|difficult"
"""Names of degradations in the file names of data sets."""

_Key = Callable[[str], object]


def pair_names(names_hr: Sequence[str], names_lr: Sequence[str], scale: int) -> tuple[dict[str, str], dict[str, str]]:
    """Match `0801.png` with `0801.png`, `0801x4.png`, `0801_x4.jpg`, `0801_LRBI_x4.png`, `0801_LR.png` and the like, in any folders.

    The match is one to one. The same name is preferred to a name with an ending, unless that leaves more HR files without LR. Names are
    compared in NFC form: macOS writes decomposed letters, other systems composed ones. Where a name occurs several times, the folders
    must be the same.

    Args:
        names_hr: HR file names with `/`, unique.
        names_lr: LR file names with `/`, unique.
        scale: HR pixels per LR pixel, the number in the ending.

    Returns:
        HR name -> LR name, and for HR files without a match HR name -> the reason.
    """
    same: list[tuple[_Key, _Key]] = [
        (_path, _path),
        (lambda name: unicodedata.normalize("NFC", _path(name)),) * 2,
        (_stem, _stem),
    ]
    ending = _without_ending(scale)

    def in_folder(name: str) -> object:
        return PurePosixPath(unicodedata.normalize("NFC", name)).parent, ending(name)

    ends: list[tuple[_Key, _Key]] = [(_in_folder, in_folder), (_stem, ending), (hr_stem, ending)]
    tries = [_in_passes(names_hr, names_lr, passes) for passes in ([*same, *ends], [*ends, *same])]
    pairs = max(tries, key=len)  # the first where both match equally many
    without = {name: _why_none(name, names_hr, names_lr, scale=scale) for name in names_hr if name not in pairs}
    return {name: pairs[name] for name in names_hr if name in pairs}, without


def why_not_lr(shape_lr: tuple[int, ...], shape_hr: tuple[int, ...], scale: int) -> str | None:
    """Why the size of an LR image does not fit; None if it is the HR size divided by the scale, rounded down or up.

    MATLAB's `imresize` rounds up; `on_common_grid` crops the last row and column then.

    Args:
        shape_lr: (height, width) of LR.
        shape_hr: (height, width) of HR.
        scale: HR pixels per LR pixel.
    """
    if min(shape_hr) < scale:
        return f"smaller than the scale: {shape_hr[1]} x {shape_hr[0]} pixels, expected at least {scale} x {scale}"
    if all(low in (high // scale, -(-high // scale)) for low, high in zip(shape_lr, shape_hr, strict=True)):
        return None
    (height_lr, width_lr), (height_hr, width_hr) = shape_lr, shape_hr
    return (
        f"its LR file has {width_lr} x {height_lr} pixels, expected {width_hr // scale} x {height_hr // scale} "
        f"({width_hr} x {height_hr} divided by the scale {scale})"
    )


def on_common_grid(shape_hr: tuple[int, ...], scale: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The parts of HR and LR that are used: complete blocks of `scale` x `scale` HR pixels from the top left, with one LR pixel for each.

    Args:
        shape_hr: (height, width) of HR.
        scale: HR pixels per LR pixel.

    Returns:
        Row and column slices of HR, and of LR.
    """
    height, width = (side // scale for side in shape_hr)
    return (slice(height * scale), slice(width * scale)), (slice(height), slice(width))


def hr_stem(name: str) -> str:
    """The NFC stem of an HR file without `_HR`, `_GT` or `_HR_x4`."""
    return re.sub(r"[-_. ](?:HR|GT)(?:[-_. ]?x\d+)?$", "", _stem(name), flags=re.IGNORECASE)


def _in_passes(names_hr: Sequence[str], names_lr: Sequence[str], passes: Sequence[tuple[_Key, _Key]]) -> dict[str, str]:
    """Each pass matches an HR and an LR file of the same key if no other HR file, and no other unmatched LR file, has this key."""
    pairs: dict[str, str] = {}
    free = list(names_lr)
    for key_hr, key_lr in passes:
        times = Counter(map(key_hr, names_hr))
        candidates: dict[object, list[str]] = defaultdict(list)
        for name in free:
            candidates[key_lr(name)].append(name)
        for name in names_hr:
            if name not in pairs and times[key_hr(name)] == 1 and len(candidates[key_hr(name)]) == 1:
                pairs[name] = candidates[key_hr(name)][0]
        used = set(pairs.values())
        free = [name for name in free if name not in used]
    return pairs


def _why_none(name: str, names_hr: Sequence[str], names_lr: Sequence[str], *, scale: int) -> str:
    ending = _without_ending(scale)
    alike = [other for other in names_lr if _stem(name) in (_stem(other), ending(other)) or hr_stem(name) == ending(other)]
    times = sum(_stem(other) == _stem(name) for other in names_hr)
    if times > 1:
        return (
            f"no LR file for it: {times} images are called {_stem(name)}, so the LR file must be in a folder of the same name"
        )
    if len(alike) > 1:
        return f"several LR files have its name ({', '.join(alike[:_LISTED])}); keep one"
    return f"no LR file for it: looked for {_stem(name)} and {_stem(name)}x{scale} with any suffix"


def _path(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def _in_folder(name: str) -> object:
    return PurePosixPath(unicodedata.normalize("NFC", name)).parent, _stem(name)


def _without_ending(scale: int) -> Callable[[str], str]:
    """A function that removes the ending: `0801_LRBI_x4.png` -> `0801`; the ending of another scale is kept."""
    cut = re.compile(
        rf"[-_. ]?(?:LR|LQ)?[-_. ]?(?:{_KINDS})?[-_. ]?(?:x{scale}(?:[mdw]\d?)?|{scale}x)?(?:[-_. ](?:LR|LQ))?$", re.IGNORECASE
    )
    ends = re.compile(rf"(?:LR|LQ|x{scale}(?:[mdw]\d?)?|{scale}x|[-_. ](?:{_KINDS}))$", re.IGNORECASE)

    def without(name: str) -> str:
        stem = _stem(name)
        return (cut.sub("", stem, count=1) or stem) if ends.search(stem) else stem

    return without
