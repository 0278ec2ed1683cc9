"""The files of one open store, each against what the store's record says of it.

Documents and tables are compared with their recorded size and SHA-256 whenever they are read; a shard, which is large and read in pieces,
once per process and its workers, when its first tile is wanted. The checksum of each chunk is checked on every read besides (`shardcodec.py`). A damaged
local copy of a file that lies far away is fetched anew, once.
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
from .metadata import DOCUMENT_LIMIT
from .writer import digest

_SHARDS = "tiles/"  # keys of the files that are compared once
_PIECE = 2**20  # bytes that are hashed at a time: they stay in the processor's cache
_KEEP_FAR = 6  # whole shards (16 MiB of raw HR pixels or less) of a store far away that has no cache
_AT_ONCE = 8  # documents of a store far away that are asked for at a time
T = TypeVar("T")


class Files:
    """Bytes of a store's files, checked. Threads may read at once; it pickles and forks."""

    def __init__(self, place: KeyStore, record: dict[str, tuple[int, str]], strict: bool, check_shards: bool) -> None:
        """
        Args:
            place: where the store lies.
            record: key -> (bytes, SHA-256).
            strict: a file that the record does not name, or names with another digest, is an error; else it is read as it is.
            check_shards: also compare shards.
        """
        self.place, self.record, self.strict = place, record, strict
        self.check_shards = check_shards and strict
        self._passed = Once(key for key in record if key.startswith(_SHARDS)) if self.check_shards else Once()
        self._far = not isinstance(place, (LocalStore, CachingStore))
        self._whole = LRUCache(_KEEP_FAR)

    def documents(self, keys: Sequence[str]) -> list[bytes]:
        """Several small files; at once where each is a request."""
        if isinstance(self.place, LocalStore):
            return [self.whole(key, DOCUMENT_LIMIT) for key in keys]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="open") as pool:
            return list(pool.map(lambda key: self.whole(key, DOCUMENT_LIMIT), keys))

    def whole(self, key: str, most: int, decode: Callable[[bytes], T] = bytes) -> T:  # type: ignore[assignment]
        """A whole file of at most `most` bytes, decoded; StoreError that names it if it is missing or not what was committed."""

        def read() -> T:
            size, sha256 = self._fact(key) if self.strict else (most, "")
            data = self.place.get(key, 0, min(size, most) + 1)
            if data is None:
                raise DamageError("the file is missing")
            if len(data) > most:
                raise DamageError(f"the file has more than the {most} bytes that are possible")
            if self.strict and (len(data) != size or digest(data) != sha256):
                raise DamageError(f"{'edited or damaged metadata' if key.endswith('.json') else 'damaged'}: {_DIFFERS}")
            return decode(data)

        return self.naming(key, read)

    def size(self, key: str) -> int:
        """Bytes of a shard; DamageError if it is missing or has another length than was committed."""
        size = self.place.size(key)
        if size is None:
            raise DamageError("the file is missing")
        expected = self._fact(key)[0] if self.strict else size
        if size != expected:
            raise DamageError(f"the file has {size} bytes instead of {expected}")
        return size

    def part(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of a shard, which is compared with its digest first; DamageError if it is missing or damaged."""
        if self.check_shards:
            self._passed.run(key, self._compare)
        held = self._whole.get(key) if self._far and self.check_shards else None
        data = self.place.get(key, start, length) if held is None else held[start : start + length]
        if data is None:
            raise DamageError("the file is missing")
        return data

    def naming(self, key: str, read: Callable[[], T], forget: Callable[[], None] = lambda: None) -> T:
        """What `read` gives; its DamageError as a StoreError that names the file, after a second try if a local copy may be at fault."""
        try:
            try:
                return read()
            except DamageError:
                if not (isinstance(self.place, CachingStore) and self.place.forget(key)):
                    raise
                self._passed.forget(key)  # perhaps only the local copy is damaged: once more, from the store itself
                forget()
                return read()
        except DamageError as error:
            raise StoreError(
                f"{self.place}/{key}: {printable(error)}; restore this file from a copy, or prepare the store again"
            ) from error

    def _fact(self, key: str) -> tuple[int, str]:
        if key not in self.record:
            raise DamageError("the store's record does not name this file")
        return self.record[key]

    def _compare(self, key: str) -> None:
        """A whole shard with its digest: in pieces from a local folder; else as one, which is kept where each read is a request."""
        size, sha256 = self.size(key), self._fact(key)[1]
        if isinstance(self.place, LocalStore):
            hashed = hashlib.sha256()
            for start in range(0, size, _PIECE):
                hashed.update(self.place.get(key, start, _PIECE) or b"")
            found = hashed.hexdigest()
        else:
            data = self.place.get(key) or b""
            found = digest(data)
            if self._far:
                self._whole[key] = data
        if found != sha256:
            self._whole.pop(key)
            raise DamageError(f"damaged, or the shard of another store: {_DIFFERS}")


_DIFFERS = "its SHA-256 differs from the record's"
