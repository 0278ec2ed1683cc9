"""The files of an open store, each compared with its entry in the store's manifest.

Metadata and tables are compared with their recorded size and SHA-256 on every read. A shard is large and read in pieces, so it is compared
once, before the first read of it by a process and its workers. The checksum of each chunk is also checked on every read (`codec.py`). A
damaged cached copy of a remote file is downloaded again, once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...errors import StoreError, printable
from ..storage.cache import CachingStore
from ..storage.local import KeyStore, LocalStore
from ..storage.lru import LRUCache
from ..storage.once import Once
from .codec import DamageError
from .metadata import DOCUMENT_LIMIT, Facts
from .writer import ROOT_KEY, as_written, digest

_SHARDS = "tiles/"  # prefix of the files that are compared once
_PIECE = 2**20  # bytes that are hashed at a time; they fit the processor's cache
_KEPT_SHARDS = 6  # shards (up to 16 MiB of raw HR pixels each) in memory, for a remote store without a cache folder
_THREADS = 8  # for the metadata of a remote store
T = TypeVar("T")


class Files:
    """Reads a store's files and checks them. Thread-safe; works after pickling and in forked processes."""

    def __init__(self, place: KeyStore, manifest: Facts, *, strict: bool, check_shards: bool) -> None:
        """
        Args:
            place: where the store is.
            manifest: key -> (bytes, SHA-256).
            strict: whether a file that is not in the manifest or differs from it is an error; if not, files are read without comparison.
            check_shards: whether shards are compared too, if `strict`.
        """
        self.place, self.manifest, self.strict = place, manifest, strict
        self.check_shards = check_shards and strict
        self._passed = Once(key for key in manifest if key.startswith(_SHARDS)) if self.check_shards else Once()
        self._remote = not isinstance(place, (LocalStore, CachingStore))
        self._whole: LRUCache[bytes] = LRUCache(_KEPT_SHARDS)

    def documents(self, keys: Sequence[str]) -> list[bytes]:
        """Several metadata files; of a remote store, they are requested in parallel."""
        if isinstance(self.place, LocalStore):
            return [self.whole(key, DOCUMENT_LIMIT) for key in keys]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="open") as pool:
            return list(pool.map(lambda key: self.whole(key, DOCUMENT_LIMIT), keys))

    def whole(self, key: str, limit: int, decode: Callable[[bytes], T] = bytes) -> T:  # type: ignore[assignment]
        """A whole file of at most `limit` bytes, decoded. StoreError if it is missing, larger, or differs from the manifest."""

        def read() -> T:
            size, sha256 = self._fact(key) if self.strict else (limit, "")
            is_document = key.endswith(ROOT_KEY)
            data = self.place.get(key, 0, (limit if is_document else min(size, limit)) + 1)
            if data is None:
                raise DamageError("the file is missing")
            if len(data) > limit:
                raise DamageError(f"the file is larger than the possible {limit} bytes")
            if self.strict and is_document and digest(data) != sha256:
                data = as_written(data)
            if self.strict and (len(data) != size or digest(data) != sha256):
                raise DamageError(f"{'edited or damaged metadata' if key.endswith('.json') else 'damaged'}: {_DIFFERS}")
            return decode(data)

        return self.naming(key, read)

    def size(self, key: str) -> int:
        """Size of a shard in bytes; DamageError if it is missing or the manifest has another size."""
        size = self.place.size(key)
        if size is None:
            raise DamageError("the file is missing")
        expected = self._fact(key)[0] if self.strict else size
        if size != expected:
            raise DamageError(f"the file has {size} bytes instead of {expected}")
        return size

    def part(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of a shard from offset `start`; DamageError if the shard is missing or differs from the manifest."""
        if self.check_shards:
            self._passed.run(key, self._compare)
        shard = self._whole.get(key) if self._remote and self.check_shards else None
        data = self.place.get(key, start, length) if shard is None else shard[start : start + length]
        if data is None:
            raise DamageError("the file is missing")
        return data

    def naming(self, key: str, read: Callable[[], T], forget: Callable[[], None] = lambda: None) -> T:
        """Call `read` and turn its DamageError into a StoreError that names the file.

        Args:
            key: the file.
            read: reads it. If it fails and a cached copy of the file exists, the copy is deleted and `read` is called once more.
            forget: called before the second attempt, to remove what is derived from the damaged copy.
        """
        try:
            try:
                return read()
            except DamageError:
                if not (isinstance(self.place, CachingStore) and self.place.forget(key)):
                    raise
                self._passed.forget(key)  # only the cached copy may be damaged
                forget()
                return read()
        except DamageError as error:
            raise StoreError(
                f"{self.place}/{key}: {printable(error)}; restore this file from a copy, or prepare the store again"
            ) from error

    def _fact(self, key: str) -> tuple[int, str]:
        if key not in self.manifest:
            raise DamageError("the file is not listed in the store's record")
        return self.manifest[key]

    def _compare(self, key: str) -> None:
        """Compare a whole shard with the manifest: in pieces from a local folder, else at once. A remote store's shard is kept in memory."""
        size, sha256 = self.size(key), self._fact(key)[1]
        if isinstance(self.place, LocalStore):
            hashed = hashlib.sha256()
            for start in range(0, size, _PIECE):
                hashed.update(self.place.get(key, start, _PIECE) or b"")
            actual = hashed.hexdigest()
        else:
            data = self.place.get(key) or b""
            actual = digest(data)
            if self._remote:
                self._whole[key] = data
        if actual != sha256:
            self._whole.pop(key)
            raise DamageError(f"damaged, or a shard of another store: {_DIFFERS}")


_DIFFERS = "its SHA-256 differs from the record's"
