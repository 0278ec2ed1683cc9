"""Reading a store over a network: `RetryingStore` asks again when a connection is cut, `CachingStore` keeps whole shards on a local disk.

A shard is fetched whole when its first tile is wanted (or before, see `prefetch`), then read from the disk. The folder has a bound: what
was used longest ago goes first. It may be shared by threads, worker processes, ranks and runs on one machine, and be deleted at any time.
The checksum of each chunk is checked on every read; a damaged copy is fetched anew (`Store.read_tile`).
"""

from __future__ import annotations

import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from ...errors import StoreError
from .local import KeyStore, LocalStore

log = logging.getLogger(__name__)

CACHE_BYTES = 20 * 2**30
_STRIPES = 64  # locks for fetching: two fetches at a time of one object never happen, of two objects nearly always may
_AT_ONCE = 4  # objects fetched in advance at the same time
T = TypeVar("T")


class RetryingStore:
    """A place that asks again, after 0.5, 1, 2, … seconds, when an answer does not come or is cut short; read-only."""

    def __init__(self, inner: KeyStore, attempts: int = 5, wait_s: float = 0.5) -> None:
        """
        Args:
            inner: the place that is asked.
            attempts: how often before giving up.
            wait_s: before the second attempt; doubled each time.
        """
        self.inner, self.attempts, self.wait_s = inner, attempts, wait_s

    def __repr__(self) -> str:
        return repr(self.inner)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `local.KeyStore`. StoreError when all attempts failed."""

        def ask() -> bytes | None:
            data = self.inner.get(key, start, length)
            if data is None or len(data) == length:
                return data
            size = self.inner.size(key)  # fewer bytes than asked for: is that the object's end?
            left = 0 if size is None else max(0, size - start)
            expected = left if length is None else min(length, left)
            if len(data) != expected:
                raise ConnectionError(f"cut short: {len(data)} of {expected} bytes")
            return data

        return self._asked(key, ask)

    def size(self, key: str) -> int | None:
        """See `local.KeyStore`. StoreError when all attempts failed."""
        return self._asked(key, lambda: self.inner.size(key))

    def list_keys(self) -> Iterator[str]:
        """See `local.KeyStore`."""
        return iter(self._asked("", lambda: list(self.inner.list_keys())))

    def sibling(self, suffix: str) -> RetryingStore:
        """See `local.KeyStore`."""
        return RetryingStore(self.inner.sibling(suffix), self.attempts, self.wait_s)

    def set(self, key: str, value: bytes) -> None:
        """Not here."""
        raise StoreError(f"{self.inner}: opened for reading, {key} cannot be written")

    def delete(self, key: str) -> None:
        """Not here."""
        raise StoreError(f"{self.inner}: opened for reading, {key} cannot be deleted")

    def _asked(self, key: str, ask: Callable[[], T]) -> T:
        for attempt in range(1, self.attempts + 1):
            try:
                return ask()
            except (StoreError, OSError) as error:
                reason = str(error).removeprefix(f"{self.inner}/{key}: ")
                if attempt == self.attempts or isinstance(error.__cause__, (ImportError, PermissionError)):
                    raise StoreError(
                        f"{self.inner}/{key}: cannot be read after {attempt} attempt(s): {reason}; when the network is back, "
                        "the same command goes on from its last checkpoint"
                    ) from error
                log.warning("%s/%s: %s; asking again", self.inner, key, reason)
                time.sleep(self.wait_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")


class CachingStore(RetryingStore):
    """A patient place whose chunks and shards are kept as files in a folder of bounded size."""

    def __init__(
        self, inner: KeyStore, folder: Path, store: str, limit: int = CACHE_BYTES, attempts: int = 5, wait_s: float = 0.5
    ) -> None:
        """
        Args:
            inner: where the store lies.
            folder: of the cache, for all stores; made when needed.
            store: names the store and its version, such as the digest of its root document.
            limit: bytes that the folder's files may take together; objects beyond it are read without being kept.
            attempts: how often to ask before giving up.
            wait_s: before the second attempt; doubled each time.
        """
        super().__init__(inner, attempts, wait_s)
        self.folder, self.store, self.limit = Path(folder), store, limit
        self._kept = LocalStore(self.folder / store)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return CachingStore, (self.inner, self.folder, self.store, self.limit, self.attempts, self.wait_s)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `local.KeyStore`; chunks come from the disk, where they are put whole on their first use."""
        if "/c/" not in key:
            return super().get(key, start, length)
        data = self._kept.get(key, start, length)
        if data is None:
            whole = self._fetched(key)
            return None if whole is None else whole[start : None if length is None else start + length]
        with suppress(FileNotFoundError):  # another process may have made room in between
            os.utime(self._kept.root / key)  # used now
        return data

    def size(self, key: str) -> int | None:
        """See `local.KeyStore`."""
        kept = self._kept.size(key)
        return super().size(key) if kept is None else kept

    def forget(self, key: str) -> bool:
        """Drop the copy of an object; False if there was none, so that fetching it anew would not help."""
        there = self._kept.size(key) is not None
        self._kept.delete(key)
        return there

    def prefetch(self, keys: Iterable[str]) -> None:
        """Fetch objects in the background. What goes wrong there comes up again when the object is read."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="prefetch")
        for key in keys:
            if self._kept.size(key) is None:
                self._pool[1].submit(self._fetched, key)

    def _fetched(self, key: str) -> bytes | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".fetch-{zlib.crc32(key.encode()) % _STRIPES}"):
            data = self._kept.get(key)  # another thread or process may have been faster
            if data is None:
                data = super().get(key)
                if data is not None:
                    self._keep(key, data)
        return data

    def _keep(self, key: str, data: bytes) -> None:
        if len(data) > self.limit:
            return
        with FileLock(self.folder / ".room"):
            for path in plan_room(_files(self.folder), self.limit - len(data)):
                path.unlink(missing_ok=True)
            self._kept.set(key, data)


def plan_room(files: Iterable[tuple[float, int, Path]], limit: int) -> list[Path]:
    """Which files to delete so that the rest takes at most `limit` bytes: those used longest ago. Files are (last use, bytes, path)."""
    gone, total = [], 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > limit:
            gone.append(path)
    return gone


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Last use, bytes and path of each kept object (and of partial ones that a killed process left)."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file() and path.parent != folder:
                yield status.st_mtime, status.st_size, path
