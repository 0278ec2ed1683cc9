"""Which LR file belongs to which HR file, by name. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

_HIDDEN = 3  # names that a message lists


def pair_names(names_hr: Sequence[str], names_lr: Sequence[str], scale: int) -> tuple[dict[str, str], dict[str, str]]:
    """Match `0801.png` with `0801.png`, `0801x4.png`, `0801_x4.jpg`, `0801_LRBI_x4.png` and the like, in whatever folders.

    One LR file for one HR file: where a name occurs several times, the folders have to be the same.

    Args:
        names_hr: with `/`, unique.
        names_lr: likewise.
        scale: HR pixels per LR pixel, as the suffix says.

    Returns:
        HR name -> LR name, and for the others HR name -> the reason why there is none.
    """
    of_stem: dict[str, list[str]] = defaultdict(list)
    exact: dict[str, list[str]] = defaultdict(list)  # a whole stem that happens to end like a suffix: `castle_x4`
    for name in names_lr:
        stem = PurePosixPath(name).stem
        of_stem[_without_suffix(stem, scale)].append(name)
        exact[stem].append(name)
    hr_of_stem: dict[str, list[str]] = defaultdict(list)
    for name in names_hr:
        hr_of_stem[PurePosixPath(name).stem].append(name)
    pairs, without = {}, {}
    for name in names_hr:
        stem = PurePosixPath(name).stem
        found = of_stem.get(stem) or exact.get(stem, [])
        if len(found) > 1 or len(hr_of_stem[stem]) > 1:
            found = [other for other in found if PurePosixPath(other).parent == PurePosixPath(name).parent]
        if len(found) == 1:
            pairs[name] = found[0]
        elif found:
            without[name] = f"several LR files have its name ({', '.join(found[:_HIDDEN])}); keep one"
        elif len(hr_of_stem[stem]) > 1:
            without[name] = (
                f"no LR file for it: {len(hr_of_stem[stem])} pictures are called {stem}, so the LR file must lie in a folder of the same name"
            )
        else:
            without[name] = f"no LR file for it: looked for {stem} and {stem}x{scale} with any suffix"
    return pairs, without


def _without_suffix(stem: str, scale: int) -> str:
    """`0801_LRBI_x4` -> `0801`; a suffix of another scale stays."""
    return re.sub(rf"[-_. ]?(?:LR(?:BI)?)?[-_. ]?(?:x{scale})?$", "", stem, flags=re.IGNORECASE) or stem


def why_not_lr(shape_lr: tuple[int, ...], shape_hr: tuple[int, ...], scale: int) -> str | None:
    """What is wrong with the size of an LR picture, None if it is that of its HR picture divided by the scale (rounded down)."""
    (height_lr, width_lr), (height_hr, width_hr) = shape_lr, shape_hr
    expected = (height_hr // scale, width_hr // scale)
    if (height_lr, width_lr) == expected:
        return None
    return (
        f"its LR file has {width_lr} x {height_lr} pixels, expected {expected[1]} x {expected[0]} "
        f"({width_hr} x {height_hr} divided by the scale {scale})"
    )
