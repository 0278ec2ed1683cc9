"""Zarr v3 chunk and shard bytes, pure: zstd, CRC-32C, and the `sharding_indexed` layout.

Written here and not through zarr-python for three reasons: every chunk is present (zarr leaves out chunks equal to the fill value
and reads them back as such, so a lost one would look the same); the same bytes come out whatever zarr version is installed; and a
reader in a forked worker needs no event loop. What is written is plain Zarr v3, which the tests read back with zarr-python.

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
_MAGIC = b"\x28\xb5\x2f\xfd"  # of a zstd frame


class DamageError(ValueError):
    """Bytes that are not what was written. The caller adds where they came from."""


def encode_chunk(array: np.ndarray, level: int) -> bytes:
    """An array (any shape, little-endian) as zstd frame + CRC-32C of the frame."""
    frame = zstd.compress(np.ascontiguousarray(array).data, level)
    return frame + _CRC.pack(google_crc32c.value(frame))


def decode_chunk(data: bytes, dtype: np.dtype, shape: tuple[int, ...], out: np.ndarray | None = None) -> np.ndarray:
    """The array back, read-only; DamageError if the checksum or the length is wrong.

    Args:
        data: what `encode_chunk` made.
        dtype: little-endian.
        shape: of the chunk.
        out: contiguous array of that type and shape to decode into, which is then what is returned. Fresh memory for each
            tile costs more page faults than the decoding itself takes.
    """
    if len(data) < _CRC.size:
        raise DamageError(f"a chunk of {len(data)} bytes is too short")
    frame = data[: -_CRC.size]
    if google_crc32c.value(frame) != _CRC.unpack_from(data, len(frame))[0]:
        raise DamageError("CRC-32C of a chunk does not match")
    expected = math.prod(shape) * dtype.itemsize
    if (stated := _stated_size(frame)) != expected:
        raise DamageError(f"a chunk holds {stated} bytes instead of {expected}")
    assert out is None or (out.dtype, out.shape) == (dtype, shape), (out.dtype, out.shape, dtype, shape)
    try:
        if out is None:
            return np.frombuffer(zstd.decompress(frame), dtype).reshape(shape)
        zstd.decompress(frame, out)
    except (RuntimeError, ValueError) as error:  # the frame is none, or others follow it
        raise DamageError(f"a chunk cannot be decoded: {error}") from error
    return out


def encoded_bound(raw: int) -> int:
    """Most bytes that `encode_chunk` makes of `raw` bytes (zstd's `ZSTD_COMPRESSBOUND`, and the checksum)."""
    return raw + (raw >> 8) + max(0, (1 << 17) - raw >> 11) + _CRC.size


def _stated_size(frame: bytes) -> int | None:
    """The decoded size that a zstd frame's header states; None if it is no such frame or states none (RFC 8878, 3.1.1.1)."""
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
    """Encoded chunks, in order, then the index. The last shard of an array has fewer chunks than `slots`."""
    assert 0 < len(chunks) <= slots
    index = np.full((slots, 2), _EMPTY, "<u8")
    lengths = np.array([len(chunk) for chunk in chunks], "<u8")
    index[: len(chunks), 1] = lengths
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    table = index.tobytes()
    return b"".join([*chunks, table, _CRC.pack(google_crc32c.value(table))])


def index_bytes(slots: int) -> int:
    """Length of a shard's index, with its checksum, at the end of the shard."""
    return slots * 16 + _CRC.size


def decode_index(tail: bytes, slots: int, size: int | None = None) -> np.ndarray:
    """uint64 [slots, 2] of offset and length, from the last `index_bytes(slots)` bytes of a shard; `size` is the shard's, in bytes."""
    if len(tail) != index_bytes(slots):
        raise DamageError(f"the shard's index has {len(tail)} bytes instead of {index_bytes(slots)}: the file is cut short")
    table, crc = tail[: -_CRC.size], _CRC.unpack(tail[-_CRC.size :])[0]
    if google_crc32c.value(table) != crc:
        raise DamageError("CRC-32C of the shard's index does not match")
    index = np.frombuffer(table, "<u8").reshape(slots, 2)
    if size is not None:
        offset, length = index[index[:, 0] != np.uint64(_EMPTY)].T
        most = np.uint64(max(0, size - len(tail)))
        if (offset > most).any() or (length > most - np.minimum(offset, most)).any():
            raise DamageError("the shard's index names bytes that the shard does not have")
    return index


def chunk_span(index: np.ndarray, slot: int) -> tuple[int, int]:
    """(offset, length) of one chunk; DamageError if the shard does not hold it."""
    offset, length = int(index[slot, 0]), int(index[slot, 1])
    if offset == _EMPTY:
        raise DamageError(f"chunk {slot} of the shard was never written")
    return offset, length
