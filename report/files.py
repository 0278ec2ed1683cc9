"""The images of a page: stored in the page if they are small together, else in a folder beside it.

An image file is named by the SHA-256 of its content. So a file that samdiff wrote is recognised by its name and content, and two images
never get the same name.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError, SamdiffError, printable
from ..pipeline.storage.outputs import EXISTS, NOTHING, folder_problem, look, place_problem, sweep_outputs, write_output
from ..pipeline.storage.regular import read_regular

_KINDS = {"png": "image/png", "webp": "image/webp"}
_OURS = re.compile(r"[0-9a-f]{32}\.(?:png|webp)")
_LARGEST = 1 << 30  # bytes of an image file


class ImageFiles:
    """Collects the images of one page."""

    def __init__(self, folder: Path, *, inline_bytes: int) -> None:
        """
        Args:
            folder: beside the page; made when the images exceed the limit.
            inline_bytes: limit of all images that are stored in the page.
        """
        self.folder = folder
        self.inline: dict[str, bytes] = {}
        """Key -> content, of the images in the page; empty once there is a folder."""
        self._limit, self._sizes = inline_bytes, dict[str, int]()

    @property
    def in_folder(self) -> bool:
        """Whether the images are in the folder."""
        return bool(self._sizes) and not self.inline

    @property
    def size(self) -> int:
        """Bytes of all images."""
        return sum(self._sizes.values())

    def add(self, data: bytes, kind: str) -> str:
        """Add an image, a PNG or WebP file. Returns its key, which is its file's name.

        Raises:
            SamdiffError: the folder cannot be written.
        """
        key = f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}"
        if key in self._sizes:
            return key
        in_folder = self.in_folder
        self._sizes[key] = len(data)
        if in_folder:
            self._write(key, data)
        else:
            self.inline[key] = data
            if self.size > self._limit:
                for each, content in self.inline.items():
                    self._write(each, content)
                self.inline = {}
        return key

    def urls(self) -> dict[str, str]:
        """Key -> data URL, of the images in the page."""
        return {
            key: f"data:{_KINDS[key.rpartition('.')[2]]};base64,{base64.b64encode(data).decode()}"
            for key, data in self.inline.items()
        }

    def remove_old(self) -> None:
        """Remove images of an earlier page from the folder: files whose name is that of their content and that this page does not use."""
        if look(self.folder).kind != "a folder":
            return
        with suppress(OSError):
            for file in sorted(self.folder.iterdir()):
                used = self.in_folder and file.name in self._sizes
                if not used and _is_ours(file):
                    file.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _write(self, key: str, data: bytes) -> None:
        file = self.folder / key
        if look(file).kind == NOTHING:
            write_output(file, data, overwrite=False)
        elif not _is_ours(file):
            raise SamdiffError(f"{printable(file)}: expected an image of this page or nothing, got another file; move it away")


def claim_folder(folder: Path, *, page_exists: bool, overwrite: bool) -> None:
    """Check before any work that images may be written into the folder. Files of others in it stay untouched.

    Raises:
        ConfigError: it is a file, it cannot be written, or it holds files of another page or of others and `overwrite` is false.
    """
    if folder.is_symlink():
        raise ConfigError(f"{printable(folder)}: a link, expected a folder or nothing; remove it, or choose another -o")
    if reason := folder_problem(folder) or place_problem(folder / "image.png"):
        raise ConfigError(f"{printable(folder)}: {reason}")
    if look(folder).kind == NOTHING:
        return
    names = os.listdir(folder)
    foreign = page_exists or any(not _OURS.fullmatch(name) and not name.startswith(".") for name in names)
    if names and foreign and not overwrite:
        raise ConfigError(f"{printable(folder)}: {EXISTS}")
    sweep_outputs(folder / name for name in names if _OURS.fullmatch(name))


def _is_ours(file: Path) -> bool:
    """Whether the name of a file is that of an image, and its content has the hash in the name."""
    if not _OURS.fullmatch(file.name) or file.is_symlink() or not file.is_file():
        return False
    try:
        return hashlib.sha256(read_regular(file, _LARGEST)).hexdigest()[:32] == file.stem
    except OSError:
        return False
