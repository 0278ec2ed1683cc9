"""What `samdiff infer` is to upscale: files, folders and patterns as a list of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import ConfigError, ImageError
from ..storage.outputs import place_of
from .listing import is_set_aside, list_source


@dataclass(frozen=True)
class InputFile:
    """One input of `samdiff infer`."""

    path: Path
    """The file."""
    inside: str = ""
    """Its folder relative to the folder that was given, with `/`; kept below `--out`."""
    trouble: str = ""
    """Why it cannot be read, if that is known from the listing."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


def list_inputs(inputs: Sequence[str | Path], suffix: str, recursive: bool = False, out: Path | None = None) -> list[InputFile]:
    """Files, the images of folders, and the files that patterns such as `in/*.png` match; sorted within each.

    A folder's images that are results of others beside them (NAME + suffix) are left out, so that the same command can run again. What is an
    image by its name and cannot be read is listed with the reason.

    Args:
        inputs: files, folders, patterns.
        suffix: of the results' names.
        recursive: whether folders are searched with their subfolders; if not, a warning says how many images lie in those.
        out: where the results go; if that is a folder within one that is searched, it is left out.

    Raises:
        ImageError: a folder without images or that cannot be read, or a pattern that matches nothing.
        ConfigError: an empty name.
    """
    found: dict[object, InputFile] = {}
    folders: dict[str, tuple[object, ...]] = {}
    for given in inputs:
        if not os.fspath(given):  # an empty variable in a shell; a Path would make it the current folder
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
            found.setdefault(place_of(file.path, folders), file)
    return list(found.values())


def _matches(pattern: str) -> list[str]:
    """The files that a pattern matches, sorted; without those in folders that no lister looks into, unless the pattern names them."""
    plain = set(Path(pattern).parts)
    names = sorted(glob.glob(pattern, recursive=True))
    return [
        name for name in names if not os.path.isdir(name) and not any(is_set_aside(p) for p in set(Path(name).parts) - plain)
    ]


def inputs_of_folder(
    folder: Path, suffix: str, recursive: bool, out: Path | None = None
) -> tuple[list[InputFile], list[InputFile]]:
    """A folder's images, sorted: the inputs, and those that by their names are results of others beside them.

    A pipe or a dangling link named like an image is listed, too.
    """
    files = [
        InputFile(Path(image.path), PurePosixPath(image.name).parent.as_posix(), image.trouble)
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
    """Whether a file lies in a folder of results that lies in the folder that is searched."""
    place = Path(os.path.realpath(out))
    return place != Path(os.path.realpath(folder)) and Path(os.path.realpath(path.parent)).is_relative_to(place)
