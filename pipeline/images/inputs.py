"""The inputs of `samdiff infer`: files, folders and patterns as a list of files."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import ConfigError, ImageError
from ..storage.outputs import place_of
from ..storage.regular import open_regular
from .listing import is_set_aside, list_source


@dataclass(frozen=True)
class InputFile:
    """One input of `samdiff infer`."""

    path: Path
    """The file."""
    inside: str = ""
    """Its folder relative to the input folder, with `/`; `--out` gets the same subfolder."""
    problem: str = ""
    """Why it cannot be read, as far as the listing shows; empty: no problem is known."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def list_inputs(inputs: Sequence[str | Path], suffix: str, recursive: bool = False, out: Path | None = None) -> list[InputFile]:
    """List files, the images of folders, and the files that match patterns such as `in/*.png`; sorted within each input.

    Images of a folder that are results of others beside them (NAME + suffix) are left out, so that the command can run again. Files with
    the name of an image that cannot be read are listed with the reason.

    Args:
        inputs: files, folders, patterns.
        suffix: that results add to the name.
        recursive: whether to search subfolders; if not, a warning reports the number of images in them.
        out: folder of the results; left out if it is inside a searched folder.

    Raises:
        ImageError: a folder without images or that cannot be read, or a pattern that matches nothing.
        ConfigError: an empty name.
    """
    files: dict[object, InputFile] = {}  # by identity: each file once, even if two inputs name it
    folders: dict[str, tuple[object, ...]] = {}
    for given in inputs:
        if not os.fspath(given):  # such as an empty shell variable; Path("") is the working directory
            raise ConfigError("infer: expected a file, folder or pattern, got an empty name; for the current folder write .")
        path = Path(given)
        if os.path.isdir(path):
            chosen, _ = inputs_of_folder(path, suffix, recursive=recursive, out=out)
        elif not os.path.lexists(path) and glob.has_magic(str(given)):
            chosen = [InputFile(Path(name)) for name in _matches(str(given))]
            if not chosen:
                raise ImageError(f"{given}: matches no file")
        else:
            chosen = [InputFile(path)]
        for file in chosen:
            files.setdefault(place_of(file.path, folders), file)
    return list(files.values())


def header_size(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's header states them, not turned upright; None if it cannot be read. No pixel is decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), open_regular(path) as file, Image.open(file) as image:
            warnings.simplefilter("ignore")  # of the number of pixels, which is checked when the image is read
            return image.size
    except Exception:  # noqa: BLE001 - Pillow raises many kinds of exceptions for damaged files; what is wrong is reported when the image is read
        return None


def _matches(pattern: str) -> list[str]:
    """The files that match a pattern, sorted; without those in hidden and system folders, unless the pattern names the folder."""
    plain = set(Path(pattern).parts)
    names = sorted(glob.glob(pattern, recursive=True))
    return [
        name for name in names if not os.path.isdir(name) and not any(is_set_aside(p) for p in set(Path(name).parts) - plain)
    ]


def inputs_of_folder(
    folder: Path, suffix: str, recursive: bool, out: Path | None = None
) -> tuple[list[InputFile], list[InputFile]]:
    """The images of a folder, sorted: the inputs, and the results of others beside them (NAME + suffix).

    A pipe or a dangling link with the name of an image is listed too.
    """
    files = [
        InputFile(Path(image.path), inside=PurePosixPath(image.name).parent.as_posix(), problem=image.problem)
        for image in list_source(folder, recursive=recursive)
        if not (out is not None and _below(Path(image.path), out, folder))
    ]
    stems = {(file.path.parent, file.path.stem) for file in files}
    results = {
        file
        for file in files
        if suffix and file.path.stem.endswith(suffix) and (file.path.parent, file.path.stem.removesuffix(suffix)) in stems
    }
    return [file for file in files if file not in results], [file for file in files if file in results]


def _below(path: Path, out: Path, folder: Path) -> bool:
    """Whether a file is inside the folder of results `out`, where `out` is not the searched folder itself."""
    place = Path(os.path.realpath(out))
    return place != Path(os.path.realpath(folder)) and Path(os.path.realpath(path.parent)).is_relative_to(place)
