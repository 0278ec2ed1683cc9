"""Layouts of benchmark folders: which files are HR, and which are LR. Pure.

| layout | where it comes from |
|---|---|
| `HR/`, `LRx4/` (also `LRX4`, `LR_x4`, `LR`) | common |
| `HR/`, `LR_bicubic/X4/NAMEx4.png` | EDSR's benchmark.tar, DIV2K |
| `GTmod12/`, `LRbicx4/` | BasicSR |
| `HR/`, `LRBI/x4/NAME_LRBI_x4.png` | RCAN |
| `image_SRF_4/NAME_HR.png`, `NAME_LR.png` | SelfExSR |
| `Set5_HR/`, `Set5_LR_x4/` | eugenesiow's archives |
| images alone | LR is made by MATLAB's bicubic |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ...errors import ConfigError, printable

BICUBIC = "made from HR by MATLAB's bicubic"
"""Where LR comes from if there is none."""
_HR = re.compile(r"(?:.*[-_ ])?(?:HR|GT|originals?)(?:mod(?P<mod>\d+)|[-_]?x?(?P<scale>\d+))?", re.IGNORECASE)
_LR = re.compile(
    r"(?:.*[-_ ])?(?:LR|LQ)[-_]?(?P<kind>bicubic|bic|bi|bd|dn|nearest|unknown|mild|wild|difficult)?[-_]?(?:x?(?P<scale>\d+))?",
    re.IGNORECASE,
)
_SCALE = re.compile(r"x(\d+)|(\d+)x|(?:image_)?SRF[-_](\d+)|scale[-_]?(\d+)", re.IGNORECASE)
_STEM = re.compile(
    r"(.*)[-_ .](?P<role>HR|GT|LR|LQ)(?:bicubic|bic|bi|bd|dn)?(?:[-_ .]?x(?P<scale>\d+))?", re.IGNORECASE | re.DOTALL
)
_PLAIN = ("", "bicubic", "bic", "bi")


@dataclass(frozen=True)
class Layout:
    """Which files of a benchmark folder are read."""

    hr: tuple[str, ...]
    """Names of HR files."""
    lr: tuple[str, ...] = ()
    """Names of LR files of the scale; empty: LR is made from HR."""
    lr_from: str = BICUBIC
    """Where LR comes from."""
    unread: str = ""
    """A note on images that are not read; empty if there are none."""


@dataclass(frozen=True)
class _Place:
    """Role and scale of a file, from its folders or the end of its name."""

    name: str
    role: str
    """hr, lr or empty."""
    above: str = ""
    """The folder that holds the folders of HR and LR."""
    folder: str = ""
    """The folder of the role, with those of scales in it."""
    scale: int | None = None
    mod: int | None = None
    kind: str = ""


def benchmark_layout(names: Sequence[str], scale: int, where: str = "the folder") -> Layout:
    """Which files are HR and which are LR of a scale, by their names. Pure.

    Args:
        names: of all images of the folder, with `/`.
        scale: s.
        where: the folder's name, for messages.

    Raises:
        ConfigError: several benchmarks, or several possible folders of HR or LR.
    """
    ends = _folders_of_pairs(names)
    places = [_place(name, ends) for name in names]
    lows = [place for place in places if place.role == "lr"]
    if any(place.role == "hr" for place in places):
        highs = _one_folder(_best_hr([place for place in places if place.role == "hr"], scale), "HR", where)
    else:
        highs = _plain([place for place in places if not place.role], where)
    above = highs[0].above
    _refuse_others(above, [place for place in places if place.role in ("", "hr") and place.scale in (None, scale)], where)
    fits = [low for low in lows if low.above == above and low.scale == scale]
    fits = fits or [low for low in lows if low.above == above and low.scale is None]
    plain = [low for low in fits if low.kind in _PLAIN]
    chosen = _one_folder(plain or fits, "LR", where)
    read = {place.name for place in (*highs, *chosen)}
    unread = sorted({place.folder or str(PurePosixPath(place.name).parent) for place in places if place.name not in read})
    left = sum(place.name not in read for place in places)
    note = f"not read: {left} images ({', '.join(map(printable, unread[:4]))})" if left else ""
    lr_from = (chosen[0].folder or "files named NAME_LR") if chosen else BICUBIC
    return Layout(tuple(p.name for p in highs), tuple(p.name for p in chosen), lr_from=lr_from, unread=note)


def _refuse_others(above: str, places: Sequence[_Place], where: str) -> None:
    """ConfigError if images that could be HR lie outside the folder that holds the folders of HR and LR."""
    others = sorted({place.name.partition("/")[0] for place in places if not place.name.startswith(f"{above}/")})
    if above and others:
        names = ", ".join(map(printable, [above, *others][:4]))
        raise ConfigError(f"--benchmark {where}: expected one benchmark, found several ({names}); give one of them")


def _place(name: str, ends: frozenset[str]) -> _Place:
    """Role and scale from a name: the last folder that names a role counts, and the last that names a scale."""
    *folders, file = PurePosixPath(name).parts
    folder = "/".join(folders)
    scales = [int(next(filter(None, m.groups()))) for part in folders if (m := _SCALE.fullmatch(part))]
    scale = scales[-1] if scales else None
    if folder in ends:
        return _by_stem(name, folder, PurePosixPath(file).stem, scale=scale)
    roles = [(depth, _LR.fullmatch(part), _HR.fullmatch(part)) for depth, part in enumerate(folders)]
    roles = [(depth, low, high) for depth, low, high in roles if low or high]
    if not roles:
        return _Place(name, "", folder=folder)
    depth, low, high = roles[-1]
    above = "/".join(folders[: roles[0][0]])
    own = "/".join([*folders[: depth + 1], *(part for part in folders[depth + 1 :] if _SCALE.fullmatch(part))])
    match = low or high
    assert match is not None
    scale = int(match["scale"]) if match["scale"] else scale
    if low:
        return _Place(name, "lr", above=above, folder=own, scale=scale, kind=(low["kind"] or "").lower())
    return _Place(name, "hr", above=above, folder=own, scale=scale, mod=int(match["mod"]) if match["mod"] else None)


def _by_stem(name: str, folder: str, stem: str, scale: int | None) -> _Place:
    """In a folder with files `NAME_HR` and `NAME_LR`."""
    end = _STEM.fullmatch(stem)
    if end is None:
        return _Place(name, "other", above=folder, folder=folder)
    number = end["scale"] or next(iter(re.findall(r"(?:SRF[-_]|x)(\d+)$", end[1], re.IGNORECASE)), None)
    role = "hr" if end["role"].upper() in ("HR", "GT") else "lr"
    return _Place(name, role, above=folder, folder="", scale=int(number) if number else scale)


def _folders_of_pairs(names: Sequence[str]) -> frozenset[str]:
    """The folders in which names end in `_HR` and `_LR`, for the same image."""
    seen: dict[str, dict[str, set[str]]] = {}
    for name in names:
        path = PurePosixPath(name)
        if end := _STEM.fullmatch(path.stem):
            folder = path.parent.as_posix() if path.parent != PurePosixPath(".") else ""
            seen.setdefault(folder, {}).setdefault(end["role"].upper()[0], set()).add(end[1])
    return frozenset(folder for folder, of in seen.items() if (of.get("H", set()) | of.get("G", set())) & of.get("L", set()))


def _best_hr(places: Sequence[_Place], scale: int) -> list[_Place]:
    """HR that is named for the scale, else HR that is named for none, else HR cut to a multiple of it."""
    for fits in (
        lambda p: p.scale == scale or p.mod == scale,
        lambda p: p.scale is None and p.mod is None,
        lambda p: p.scale is None and p.mod is not None and p.mod % scale == 0,
        lambda p: p.scale is None,
    ):
        if chosen := [place for place in places if fits(place)]:
            return chosen
    return list(places)


def _plain(places: Sequence[_Place], where: str) -> list[_Place]:
    """The images that lie in the folder itself, or in the one folder that holds all of them."""
    top = [place for place in places if "/" not in place.name]
    folders = sorted({place.name.partition("/")[0] for place in places if "/" in place.name})
    if not top and len(folders) > 1:
        raise ConfigError(
            f"--benchmark {where}: expected one benchmark, found folders of images ({', '.join(map(printable, folders[:4]))}); give one of them"
        )
    if not top and not places:
        raise ConfigError(f"--benchmark {where}: expected HR images, found LR only; add them, or give another folder")
    return top or list(places)


def _one_folder(places: Sequence[_Place], what: str, where: str) -> list[_Place]:
    """The places if all are in one folder; else a ConfigError that names the folders."""
    folders = sorted({(place.above, place.folder) for place in places})
    if len({above for above, _ in folders}) > 1:
        names = ", ".join(printable(above or ".") for above in sorted({above for above, _ in folders})[:4])
        raise ConfigError(f"--benchmark {where}: expected one benchmark, found several ({names}); give one of them")
    if len(folders) > 1:
        names = ", ".join(printable(folder) for _, folder in folders[:4])
        raise ConfigError(f"--benchmark {where}: several possible folders of {what} ({names}); move away all but one")
    return list(places)


def may_be_lr(name: str) -> bool:
    """Whether a file or folder (`NAME (folder)`) is in a folder of LR, by its name."""
    return any(_LR.fullmatch(part) for part in PurePosixPath(name.removesuffix(" (folder)")).parts)


def inside(name: str) -> str:
    """A name without the folders that name a role or a scale, and those above."""
    parts = PurePosixPath(name).parts
    roles = [k for k, part in enumerate(parts[:-1]) if _HR.fullmatch(part) or _LR.fullmatch(part) or _SCALE.fullmatch(part)]
    return "/".join(parts[roles[-1] + 1 :] if roles else parts)
