"""Reading a store over a network: `RetryingStore` repeats failed requests, `CachingStore` keeps whole shards on a local disk.

A shard is downloaded whole when its first tile is read (or earlier, see `prefetch`), then read from disk. The size of the folder is
limited; the least recently used files are deleted first. Threads, worker processes, ranks and runs of one machine may share it, and it
may be deleted at any time. The checksum of each chunk is checked on every read; a damaged copy is downloaded again (`Store.read_tile`).
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
"""Default limit of the cache folder in bytes."""
_STRIPES = 64  # lock files; an object is never downloaded twice at a time, and two objects rarely share a lock
_PREFETCH_THREADS = 4
T = TypeVar("T")


class RetryingStore:
    """A read-only key store that repeats a request that failed or returned too few bytes, after 0.5, 1, 2, … seconds."""

    def __init__(self, inner: KeyStore, attempts: int = 5, wait_s: float = 0.5) -> None:
        """
        Args:
            inner: the remote store.
            attempts: the number of attempts before the error is raised.
            wait_s: seconds before the second attempt; doubled for each further one.
        """
        self.inner, self.attempts, self.wait_s = inner, attempts, wait_s

    def __repr__(self) -> str:
        return repr(self.inner)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `local.KeyStore`. StoreError when all attempts failed."""

        def request() -> bytes | None:
            data = self.inner.get(key, start, length)
            if data is None or len(data) == length:
                return data
            size = self.inner.size(key)  # fewer bytes than requested: tell the object's end from a cut connection
            left = 0 if size is None else max(0, size - start)
            expected = left if length is None else min(length, left)
            if len(data) != expected:
                raise ConnectionError(f"incomplete: {len(data)} of {expected} bytes")
            return data

        return self._retry(key, request)

    def size(self, key: str) -> int | None:
        """See `local.KeyStore`. StoreError when all attempts failed."""
        return self._retry(key, lambda: self.inner.size(key))

    def list_keys(self) -> Iterator[str]:
        """See `local.KeyStore`."""
        return iter(self._retry("", lambda: list(self.inner.list_keys())))

    def sibling(self, suffix: str) -> RetryingStore:
        """See `local.KeyStore`."""
        return RetryingStore(self.inner.sibling(suffix), self.attempts, self.wait_s)

    def set(self, key: str, value: bytes) -> None:
        """Always a StoreError: the store is read-only."""
        raise StoreError(f"{self.inner}: opened for reading, {key} cannot be written")

    def delete(self, key: str) -> None:
        """Always a StoreError: the store is read-only."""
        raise StoreError(f"{self.inner}: opened for reading, {key} cannot be deleted")

    def _retry(self, key: str, request: Callable[[], T]) -> T:
        for attempt in range(1, self.attempts + 1):
            try:
                return request()
            except (StoreError, OSError) as error:
                reason = str(error).removeprefix(f"{self.inner}/{key}: ")
                if attempt == self.attempts or isinstance(error.__cause__, (ImportError, PermissionError)):
                    raise StoreError(
                        f"{self.inner}/{key}: cannot be read, attempts: {attempt}: {reason}; when the network is back, "
                        "the same command resumes from its last checkpoint"
                    ) from error
                log.warning("%s/%s: %s; trying again", self.inner, key, reason)
                time.sleep(self.wait_s * 2 ** (attempt - 1))
        raise AssertionError("unreachable")


class CachingStore(RetryingStore):
    """A `RetryingStore` that keeps chunks and shards as files in a local folder of limited size."""

    def __init__(
        self,
        inner: KeyStore,
        folder: Path,
        store: str,
        *,
        limit: int = CACHE_BYTES,
        attempts: int = 5,
        wait_s: float = 0.5,
    ) -> None:
        """
        Args:
            inner: the remote store.
            folder: the cache folder of all stores; made when needed.
            store: identifies the store and its version, such as the digest of its root document.
            limit: the total size of the folder's files in bytes; a larger object is not cached.
            attempts: see `RetryingStore`.
            wait_s: see `RetryingStore`.
        """
        super().__init__(inner, attempts, wait_s)
        self.folder, self.store, self.limit = Path(folder), store, limit
        self._cached = LocalStore(self.folder / store)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return _new_cache, (self.inner, self.folder, self.store, self.limit, self.attempts, self.wait_s)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `local.KeyStore`. A chunk or shard is read from the cache; at its first use it is downloaded whole."""
        if "/c/" not in key:
            return super().get(key, start, length)
        data = self._cached.get(key, start, length)
        if data is None:
            whole = self._fetched(key)
            return None if whole is None else whole[start : None if length is None else start + length]
        with suppress(FileNotFoundError):  # another process may have deleted it since
            os.utime(self._cached.root / key)  # the time of last use
        return data

    def size(self, key: str) -> int | None:
        """See `local.KeyStore`."""
        kept = self._cached.size(key)
        return super().size(key) if kept is None else kept

    def forget(self, key: str) -> bool:
        """Delete the cached copy of an object; False if there was none, so that downloading it again would not help."""
        cached = self._cached.size(key) is not None
        self._cached.delete(key)
        return cached

    def prefetch(self, keys: Iterable[str]) -> None:
        """Download objects in the background. Errors are ignored here; they are raised when the object is read."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(_PREFETCH_THREADS, thread_name_prefix="prefetch")
        for key in keys:
            if self._cached.size(key) is None:
                self._pool[1].submit(self._fetched, key)

    def _fetched(self, key: str) -> bytes | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".fetch-{zlib.crc32(key.encode()) % _STRIPES}"):
            data = self._cached.get(key)  # another thread or process may have downloaded it
            if data is None:
                data = super().get(key)
                if data is not None:
                    self._save(key, data)
        return data

    def _save(self, key: str, data: bytes) -> None:
        if len(data) > self.limit:
            return
        with FileLock(self.folder / ".room"):
            for path in plan_room(_files(self.folder), self.limit - len(data)):
                path.unlink(missing_ok=True)
            self._cached.set(key, data)


def _new_cache(*state: *tuple[KeyStore, Path, str, int, int, float]) -> CachingStore:
    """A `CachingStore` from its pickled state."""
    inner, folder, store, limit, attempts, wait_s = state
    return CachingStore(inner, folder, store, limit=limit, attempts=attempts, wait_s=wait_s)


def plan_room(files: Iterable[tuple[float, int, Path]], limit: int) -> list[Path]:
    """The least recently used files to delete, so that the rest has at most `limit` bytes. Files are (time of last use in s, bytes, path)."""
    delete, total = [], 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > limit:
            delete.append(path)
    return delete


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use in s, bytes, path) of each cached object, and of partial files that killed processes left."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file() and path.parent != folder:
                yield status.st_mtime, status.st_size, path
