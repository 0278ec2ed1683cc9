"""A store at a URL that fsspec supports: `s3://bucket/name.zarr`, `gs://…`, `az://…`, `memory://name.zarr`.

Credentials, regions and endpoints are read from the environment, as by the service's own tools (for S3: `AWS_PROFILE`,
`AWS_ENDPOINT_URL`, …). Object stores write whole objects atomically.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ...errors import StoreError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class FsspecStore:
    """A key store at a URL. Each process connects on first use, also after a fork."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._connection: tuple[int, AbstractFileSystem, str] | None = None

    def __repr__(self) -> str:
        return self.url

    def __reduce__(self) -> tuple[object, ...]:
        return FsspecStore, (self.url,)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes | None:
        """See `local.KeyStore`."""
        with self._connected(key) as (fs, root):
            try:
                data: bytes = fs.cat_file(f"{root}/{key}", start=start or None, end=None if length is None else start + length)
                return data
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        """See `local.KeyStore`."""
        with self._connected(key) as (fs, root):
            try:
                return int(fs.info(f"{root}/{key}")["size"])
            except FileNotFoundError:
                return None

    def set(self, key: str, value: bytes) -> None:
        """See `local.KeyStore`."""
        with self._connected(key) as (fs, root):
            fs.pipe_file(f"{root}/{key}", value)

    def list_keys(self) -> Iterator[str]:
        """See `local.KeyStore`."""
        with self._connected("") as (fs, root):
            try:
                paths = fs.find(root)
            except FileNotFoundError:
                paths = []
        yield from sorted(path[path.index(root) + len(root) + 1 :] for path in paths)

    def delete(self, key: str) -> None:
        """See `local.KeyStore`."""
        with self._connected(key) as (fs, root), suppress(FileNotFoundError):
            fs.rm_file(f"{root}/{key}")

    def sibling(self, suffix: str) -> FsspecStore:
        """See `local.KeyStore`."""
        return FsspecStore(self.url + suffix)

    @contextmanager
    def _connected(self, key: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system and the root's path in it. Every exception inside the block becomes a StoreError that names the URL."""
        try:
            if self._connection is None or self._connection[0] != os.getpid():
                self._connection = (os.getpid(), *_connect(self.url))
            yield self._connection[1:]
        except ImportError as error:
            raise StoreError(f"{self.url}: {error}; for S3: pip install 'samdiff[remote]'") from error
        except Exception as error:  # each service has its own exceptions
            reason = f"{type(error).__name__}: {error}"
            raise StoreError(
                f"{self.url}/{key}: {reason}; check the address, the network, the bucket and your credentials"
            ) from error


def _connect(url: str) -> tuple[AbstractFileSystem, str]:
    import fsspec

    # Listings are not cached: another process may write between two calls.
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=False)
    return fs, str(root).rstrip("/")
