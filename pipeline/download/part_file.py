"""The partial file `NAME.part` beside its target: open and locked, a regular file with one name, never the target of a link."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Self

from ...errors import BusyError
from ..storage.atomic import advice, hold
from .response_headers import is_validator, parse_count
from .timed_http import RetryPolicy
from .transport import DownloadError

log = logging.getLogger(__name__)

_TAG_BYTES = 1 << 14
_POLL = 1.0  # seconds between checks of another process's partial file


@dataclass(frozen=True)
class Tag:
    """What a server reported of the file when its download started."""

    url: str = ""
    validator: str = ""
    """A strong ETag, or Last-Modified; empty: a change of the file cannot be detected."""
    total: int | None = None
    """Bytes of the whole file; None: not reported."""


class PartFile:
    """The partial file of a download, locked from its opening to its renaming: at most one process holds it.

    Args:
        target: path of the complete file.
        retry: its `busy` is the time to wait for another process.
        sleep: called with seconds between two checks; tests replace it.

    Raises:
        DownloadError: the path is a link, a folder or a device, or it cannot be written.
        BusyError: another process holds the lock and receives no data.
    """

    def __init__(self, target: Path, retry: RetryPolicy, sleep: Callable[[float], object]) -> None:
        self.target = target
        self.path, self._tag = (target.with_name(target.name + suffix) for suffix in (".part", ".part.tag"))
        self.waited = False
        """Whether another process held the lock: the target may exist now."""
        self._number = self._acquire(retry, sleep)

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
        """Append bytes.

        Raises:
            DownloadError: the disk is full or not accessible; the bytes so far are kept.
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
        """Empty the file and delete its tag."""
        os.ftruncate(self._number, 0)
        self._drop_tag()

    @contextmanager
    def reader(self) -> Iterator[BufferedReader]:
        """The content as a binary file, from its start."""
        with open(os.dup(self._number), "rb") as file:
            file.seek(0)
            yield file

    def finish(self) -> None:
        """Flush to the disk and rename to the target; an existing target is renamed to `NAME.kept-N` first."""
        os.fsync(self._number)
        if os.path.lexists(self.target):
            aside = _free_name(self.target)
            log.warning("%s is not the published file; it was renamed to %s", self.target, aside.name)
            os.rename(self.target, aside)
        os.replace(self.path, self.target)
        self._drop_tag()

    def tag(self) -> Tag:
        """The stored tag; an empty one if there is none, or it is invalid."""
        try:
            number = _open_own(self._tag, os.O_RDONLY)
        except FileNotFoundError:
            return Tag()
        with open(number, "rb") as file:
            lines = file.read(_TAG_BYTES).decode("utf-8", "replace").split("\n")
        url, validator, total = [*lines, "", "", ""][:3]
        return Tag(url, validator if is_validator(validator) else "", parse_count(total))

    def note(self, tag: Tag) -> None:
        """Store a tag."""
        number = _open_own(self._tag, os.O_WRONLY | os.O_CREAT)
        with open(number, "wb") as file:
            file.truncate(0)
            text = f"{tag.url}\n{tag.validator}\n{'' if tag.total is None else tag.total}"
            file.write(text.encode("utf-8", "surrogateescape"))

    def _drop_tag(self) -> None:
        try:
            os.close(_open_own(self._tag, os.O_RDONLY))
        except (FileNotFoundError, DownloadError):  # absent, or not a file of ours, which is never deleted
            return
        self._tag.unlink(missing_ok=True)

    def _is_in_place(self) -> bool:
        """Whether the path still belongs to the open file: another process may have renamed it to the target."""
        try:
            current = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._number)
        return (current.st_dev, current.st_ino) == (ours.st_dev, ours.st_ino)

    def _acquire(self, retry: RetryPolicy, sleep: Callable[[float], object]) -> int:
        idle, before = 0.0, -1
        while True:
            self._number = _open_own(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            if hold(self._number) is not False:  # locked, or this file system has no locks
                if self._is_in_place():
                    return self._number
                self.waited = True  # another process finished it between open and lock
            else:
                size = self.size
                idle, before = (0.0, size) if size != before else (idle + _POLL, before)
                if not self.waited:
                    log.warning("%s: waiting for another process that is downloading it", self.target)
                self.waited = True
            os.close(self._number)
            if idle >= retry.busy:
                raise BusyError(
                    f"{self.target}: another process is downloading it and has received no data for {retry.busy:g} s; end it, or wait for it"
                )
            sleep(_POLL)


def _open_own(path: Path, flags: int) -> int:
    """Open a regular file with one name, without following a link, and without blocking."""
    more = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        number = os.open(path, flags | more, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise _foreign(path) from error
        raise DownloadError(f"{path}: cannot be opened: {error.strerror}; {advice(error)} or use another folder") from error
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
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
