"""Which LR file belongs to which HR file: by name, then by size. The one matcher of all commands. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

_HIDDEN = 3  # names that a message lists
_KINDS = "bicubic|bic|bi|bd|dn|nearest|unknown|mild|wild|difficult"
"""How LR was made, as names tell it."""

_Key = Callable[[str], object]


def pair_names(names_hr: Sequence[str], names_lr: Sequence[str], scale: int) -> tuple[dict[str, str], dict[str, str]]:
    """Match `0801.png` with `0801.png`, `0801x4.png`, `0801_x4.jpg`, `0801_LRBI_x4.png`, `0801_LR.png` and the like, in whatever folders.

    One LR file for one HR file. The same name goes before a name with an ending, unless that leaves more HR files without LR. Names are
    equal if their NFC forms are: macOS writes decomposed letters, other systems composed ones. Where a name occurs several times, the
    folders have to be the same.

    Args:
        names_hr: with `/`, unique.
        names_lr: likewise.
        scale: HR pixels per LR pixel, as the ending says.

    Returns:
        HR name -> LR name, and for the others HR name -> the reason why there is none.
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
    pairs = max(tries, key=len)  # the first of equals
    without = {name: _why_none(name, names_hr, names_lr, scale) for name in names_hr if name not in pairs}
    return {name: pairs[name] for name in names_hr if name in pairs}, without


def why_not_lr(shape_lr: tuple[int, ...], shape_hr: tuple[int, ...], scale: int) -> str | None:
    """What is wrong with the size of an LR image; None if it is that of its HR image divided by the scale, rounded down or up.

    MATLAB's `imresize` rounds up; the pixel that is left over lies outside the common grid and is cut off, see `on_common_grid`.
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
    """What of HR and of LR is used: the whole blocks of `scale` x `scale` HR pixels from the top left, and one LR pixel for each.

    Returns:
        Row and column slices of HR, and of LR.
    """
    height, width = (side // scale for side in shape_hr)
    return (slice(height * scale), slice(width * scale)), (slice(height), slice(width))


def hr_stem(name: str) -> str:
    """The NFC stem of an HR file without `_HR`, `_GT` or `_HR_x4`."""
    return re.sub(r"[-_. ](?:HR|GT)(?:[-_. ]?x\d+)?$", "", _stem(name), flags=re.IGNORECASE)


def _in_passes(names_hr: Sequence[str], names_lr: Sequence[str], passes: Sequence[tuple[_Key, _Key]]) -> dict[str, str]:
    """Each pass pairs what has one key and is the only HR file, among all, and the only free LR file that has it."""
    pairs: dict[str, str] = {}
    free = list(names_lr)
    for key_hr, key_lr in passes:
        times = Counter(map(key_hr, names_hr))
        found: dict[object, list[str]] = defaultdict(list)
        for name in free:
            found[key_lr(name)].append(name)
        for name in names_hr:
            if name not in pairs and times[key_hr(name)] == 1 and len(found[key_hr(name)]) == 1:
                pairs[name] = found[key_hr(name)][0]
        used = set(pairs.values())
        free = [name for name in free if name not in used]
    return pairs


def _why_none(name: str, names_hr: Sequence[str], names_lr: Sequence[str], scale: int) -> str:
    ending = _without_ending(scale)
    alike = [other for other in names_lr if _stem(name) in (_stem(other), ending(other)) or hr_stem(name) == ending(other)]
    times = sum(_stem(other) == _stem(name) for other in names_hr)
    if times > 1:
        return (
            f"no LR file for it: {times} images are called {_stem(name)}, so the LR file must lie in a folder of the same name"
        )
    if len(alike) > 1:
        return f"several LR files have its name ({', '.join(alike[:_HIDDEN])}); keep one"
    return f"no LR file for it: looked for {_stem(name)} and {_stem(name)}x{scale} with any suffix"


def _path(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(name).stem)


def _in_folder(name: str) -> object:
    return PurePosixPath(unicodedata.normalize("NFC", name)).parent, _stem(name)


def _without_ending(scale: int) -> Callable[[str], str]:
    """A function: `0801_LRBI_x4.png` -> `0801`; an ending of another scale stays."""
    cut = re.compile(
        rf"[-_. ]?(?:LR|LQ)?[-_. ]?(?:{_KINDS})?[-_. ]?(?:x{scale}(?:[mdw]\d?)?|{scale}x)?(?:[-_. ](?:LR|LQ))?$", re.IGNORECASE
    )
    ends = re.compile(rf"(?:LR|LQ|x{scale}(?:[mdw]\d?)?|{scale}x|[-_. ](?:{_KINDS}))$", re.IGNORECASE)

    def without(name: str) -> str:
        stem = _stem(name)
        return (cut.sub("", stem, count=1) or stem) if ends.search(stem) else stem

    return without
