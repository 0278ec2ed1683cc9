"""Zarr v3 chunk and shard bytes: zstd, CRC-32C, and the `sharding_indexed` layout. Pure.

zarr-python is not used for three reasons. It omits chunks equal to the fill value and reads a missing chunk as fill values, so a lost
chunk would not be noticed; here every chunk is written. Its bytes may change with its version. And it needs an event loop, which a
forked worker does not have. The result is plain Zarr v3, which the tests read with zarr-python.

Sources: Zarr v3 specification, codecs `bytes`, `zstd`, `crc32c` and `sharding_indexed` (index at the end, little-endian uint64
pairs of offset and length, then CRC-32C of the index).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np
from numcodecs import zstd

_EMPTY = 2**64 - 1  # marks a chunk that was never written
_CRC = struct.Struct("<I")
_MAGIC = b"\x28\xb5\x2f\xfd"  # the start of a zstd frame


class DamageError(ValueError):
    """Bytes that differ from what was written. The caller adds the name of the file."""


def encode_chunk(array: np.ndarray, level: int) -> bytes:
    """A little-endian array of any shape as a zstd frame, followed by the CRC-32C of the frame."""
    frame = zstd.compress(np.ascontiguousarray(array).data, level)
    return frame + _CRC.pack(google_crc32c.value(frame))


def decode_chunk(data: bytes, dtype: np.dtype, shape: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
    """Decode a chunk.

    Args:
        data: the result of `encode_chunk`.
        dtype: dtype of the chunk, little-endian.
        shape: shape of the chunk.
        out: contiguous array of that dtype and shape to decode into. It avoids new memory for each tile, whose page faults take longer
            than the decoding. None: a new array.

    Returns:
        `out`, or a new read-only array.

    Raises:
        DamageError: the checksum or the length is wrong.
    """
    if len(data) < _CRC.size:
        raise DamageError(f"a chunk of {len(data)} bytes is too short")
    frame = data[: -_CRC.size]
    if google_crc32c.value(frame) != _CRC.unpack_from(data, len(frame))[0]:
        raise DamageError("CRC-32C of a chunk does not match")
    expected = math.prod(shape) * dtype.itemsize
    if (stated := _stated_size(frame)) != expected:
        raise DamageError(f"a chunk has {stated} bytes instead of {expected} when decoded")
    assert out is None or (out.dtype, out.shape) == (dtype, shape), (out.dtype, out.shape, dtype, shape)
    try:
        if out is None:
            return np.frombuffer(zstd.decompress(frame), dtype).reshape(shape)
        zstd.decompress(frame, out)
    except (RuntimeError, ValueError) as error:  # not a zstd frame, or more than one
        raise DamageError(f"a chunk cannot be decoded: {error}") from error
    return out


def encoded_bound(raw: int) -> int:
    """The maximum size of `encode_chunk`'s result for `raw` bytes: zstd's `ZSTD_COMPRESSBOUND` plus the checksum."""
    return raw + (raw >> 8) + max(0, (1 << 17) - raw >> 11) + _CRC.size


def _stated_size(frame: bytes) -> int | None:
    """The decoded size in a zstd frame's header (RFC 8878, 3.1.1.1); None if there is none, or `frame` is not a zstd frame."""
    if frame[:4] != _MAGIC:
        return None
    if len(frame) < 14:
        frame = frame.ljust(14, b"\0")
    descriptor = frame[4]
    single, width = descriptor >> 5 & 1, (0, 2, 4, 8)[descriptor >> 6]
    if width == 0:
        return frame[5 + (0, 1, 2, 4)[descriptor & 3]] if single else None
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    return int.from_bytes(frame[start : start + width], "little") + (256 if width == 2 else 0)


def encode_shard(chunks: Sequence[bytes], slots: int) -> bytes:
    """A shard: encoded chunks in order, then the index of `slots` entries. The last shard of an array may have fewer chunks than `slots`."""
    assert 0 < len(chunks) <= slots
    index = np.full((slots, 2), _EMPTY, "<u8")
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    index[: len(chunks), 1] = lengths
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    table = index.tobytes()
    return b"".join([*chunks, table, _CRC.pack(google_crc32c.value(table))])


def index_bytes(slots: int) -> int:
    """Size in bytes of the index, with its checksum, at the end of a shard."""
    return slots * 16 + _CRC.size


def decode_index(tail: bytes, slots: int, size: int | None = None) -> np.ndarray:
    """Decode the index of a shard.

    Args:
        tail: the last `index_bytes(slots)` bytes of the shard.
        slots: chunks per shard.
        size: size of the shard in bytes; None: offsets are not checked against it.

    Returns:
        uint64 [slots, 2]: offset and length of each chunk in bytes.

    Raises:
        DamageError: the index is too short, its checksum is wrong, or an entry points outside the shard.
    """
    if len(tail) != index_bytes(slots):
        raise DamageError(f"the shard's index has {len(tail)} bytes instead of {index_bytes(slots)}: the file is truncated")
    table, crc = tail[: -_CRC.size], _CRC.unpack(tail[-_CRC.size :])[0]
    if google_crc32c.value(table) != crc:
        raise DamageError("CRC-32C of the shard's index does not match")
    index = np.frombuffer(table, "<u8").reshape(slots, 2)
    if size is not None:
        offset, length = index[index[:, 0] != np.uint64(_EMPTY)].T
        most = np.uint64(max(0, size - len(tail)))
        if (offset > most).any() or (length > most - np.minimum(offset, most)).any():
            raise DamageError("the shard's index points outside the shard")
    return index


def chunk_span(index: np.ndarray, slot: int) -> tuple[int, int]:
    """(offset, length) of one chunk in bytes; DamageError if the shard does not have this chunk."""
    offset, length = int(index[slot, 0]), int(index[slot, 1])
    if offset == _EMPTY:
        raise DamageError(f"chunk {slot} of the shard was never written")
    return offset, length
