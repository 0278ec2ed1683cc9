"""`NAME.part` beside the file that it becomes: held open and locked, a regular file of one name, never a link's target."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...errors import BusyError
from ..storage.atomic import advice, hold
from .answers import is_mark, number_of
from .timed_http import RetryPolicy
from .transport import DownloadError

log = logging.getLogger(__name__)

_TAG_BYTES = 1 << 14
_POLL = 1.0  # seconds between looks at another process's part


@dataclass(frozen=True)
class Tag:
    """What an address said of the file when the part was begun."""

    url: str = ""
    mark: str = ""
    """A strong ETag, or Last-Modified; empty: nothing that a change could be told by."""
    total: int | None = None
    """Bytes of the whole file."""


class PartFile:
    """The part of a download, from its opening to its renaming; at most one process holds it.

    Args:
        target: what it becomes.
        patience: how long another process is waited for.
        sleep: injectable clock.

    Raises:
        DownloadError: something else lies in its place, or it cannot be written.
        BusyError: another process holds it and brings no bytes.
    """

    def __init__(self, target: Path, patience: RetryPolicy, sleep: Callable[[float], Any]) -> None:
        self.target = target
        self.path, self._tag = (target.with_name(target.name + suffix) for suffix in (".part", ".part.tag"))
        self.waited = False
        """Whether another process was at it: the target may be there now."""
        self._number = self._acquire(patience, sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_in_place() and not self.size:
            self._drop_tag()
            self.path.unlink(missing_ok=True)
        os.close(self._number)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self._number).st_size

    def append(self, block: bytes) -> None:
        """Write at the end.

        Raises:
            DownloadError: the disk is full or gone; what was written is kept.
        """
        view = memoryview(block)
        try:
            while view:
                view = view[os.write(self._number, view) :]
        except OSError as error:
            raise DownloadError(
                f"{self.path}: cannot be written: {error.strerror}; {advice(error)}; {self.size} bytes are kept, run it again"
            ) from error

    def discard(self) -> None:
        """Begin anew."""
        os.ftruncate(self._number, 0)
        self._drop_tag()

    @contextmanager
    def reader(self) -> Iterator[Any]:
        """The content as a binary file, from its start."""
        with open(os.dup(self._number), "rb") as file:
            file.seek(0)
            yield file

    def finish(self) -> None:
        """Flush to the disk and move into place; whatever lies there keeps its bytes under another name."""
        os.fsync(self._number)
        if os.path.lexists(self.target):
            aside = _free_name(self.target)
            log.warning("%s is not the published file; it is kept as %s", self.target, aside.name)
            os.rename(self.target, aside)
        os.replace(self.path, self.target)
        self._drop_tag()

    def tag(self) -> Tag:
        """What is noted of the part; empty if nothing is, or nothing that can be read."""
        try:
            number = _open_own(self._tag, os.O_RDONLY)
        except FileNotFoundError:
            return Tag()
        with open(number, "rb") as file:
            lines = file.read(_TAG_BYTES).decode("utf-8", "replace").split("\n")
        url, mark, total = [*lines, "", "", ""][:3]
        return Tag(url, mark if is_mark(mark) else "", number_of(total))

    def note(self, tag: Tag) -> None:
        """Note what an address says of the file."""
        number = _open_own(self._tag, os.O_WRONLY | os.O_CREAT)
        with open(number, "wb") as file:
            file.truncate(0)
            text = f"{tag.url}\n{tag.mark}\n{'' if tag.total is None else tag.total}"
            file.write(text.encode("utf-8", "surrogateescape"))

    def _drop_tag(self) -> None:
        try:
            os.close(_open_own(self._tag, os.O_RDONLY))
        except (FileNotFoundError, DownloadError):  # not there, or not ours: nobody's file is deleted
            return
        self._tag.unlink(missing_ok=True)

    def _is_in_place(self) -> bool:
        """Whether the path still names the file that is open: another process may have moved it into place."""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._number)
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def _acquire(self, patience: RetryPolicy, sleep: Callable[[float], Any]) -> int:
        idle, before = 0.0, -1
        while True:
            self._number = _open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if hold(self._number) is not False:  # ours, or there are no locks on this disk
                if self._is_in_place():
                    return self._number
                self.waited = True  # it was finished in between
            else:
                size = self.size
                idle, before = (0.0, size) if size != before else (idle + _POLL, before)
                if not self.waited:
                    log.warning("%s: another process is downloading it; waiting for that one", self.target)
                self.waited = True
            os.close(self._number)
            if idle >= patience.busy:
                raise BusyError(f"{self.target}: another process is downloading it and brings no bytes; end it, or wait for it")
            sleep(_POLL)


def _open_own(path: Path, flags: int) -> int:
    """Open a regular file with one name, not through a link, without waiting for anybody."""
    more = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        number = os.open(path, flags | more, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise _foreign(path) from error
        raise DownloadError(f"{path}: cannot be opened: {error.strerror}; {advice(error)} or use another folder") from error
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(number)
        raise _foreign(path)
    return number


def _foreign(path: Path) -> DownloadError:
    return DownloadError(
        f"{path}: expected a regular file of this download, got a link, a folder or a device; nothing was written; delete it or move it away"
    )


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.kept-{number}")):
        number += 1
    return aside
