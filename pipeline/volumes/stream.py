"""The bytes of a NIfTI file from its start to its end, unpacked on the way."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from ...errors import ImageError

PIECE = 1 << 20
"""Bytes that are unpacked or left out at a time."""


def unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file; those of a gzip file unpacked, at most 1 MiB at a time, so that it cannot take more memory than that.

    Raises:
        ImageError: the gzip data are damaged or cut off.
    """
    unpacker, packed, begun = zlib.decompressobj(31), None, False
    for piece in pieces:
        if packed is None and piece:
            packed = piece[:2] == b"\x1f\x8b"
        if not packed:
            yield piece
            continue
        while piece or begun:
            if not begun and piece[:1] != b"\x1f":
                return  # padding after the last member
            try:
                made = unpacker.decompress(piece, PIECE)
            except zlib.error as error:
                raise ImageError("NIfTI: its gzip data are damaged") from error
            if made:
                yield made
            begun, piece = not unpacker.eof, unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if unpacker.eof:  # another member may follow, as bgzip writes them
                unpacker = zlib.decompressobj(31)
            elif not piece and len(made) < PIECE:
                break
    if begun:
        raise ImageError("NIfTI: its gzip data are cut off")


class Stream:
    """Bytes from pieces, taken from the front."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, b""

    def take(self, count: int, *, least: int | None = None) -> bytes:
        """The next `count` bytes; ImageError if there are fewer than `least` (default: `count`).

        Memory grows with what is there, not with what a header claims.
        """
        parts, have = [self._rest], len(self._rest)
        while have < count:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        whole = b"".join(parts)
        if len(whole) < (count if least is None else least):
            raise ImageError("NIfTI: cut off")
        self._rest = whole[count:]
        return whole[:count]

    def skip(self, count: int, *, before: bytes = b"") -> None:
        """Leave `count` bytes out; a negative count gives back `before`, the end of what was taken."""
        if count < 0:
            self._rest = before + self._rest
        while count > 0:
            count -= len(self.take(min(count, PIECE)))

    def drain(self, most: int) -> None:
        """Read to the end of the file. ImageError if more than `most` bytes are left, or what is left is damaged."""
        left = len(self._rest)
        for piece in self._pieces:
            left += len(piece)
            if left > most:
                break
        if left > most:
            raise ImageError("NIfTI: has far more bytes than its header states")
