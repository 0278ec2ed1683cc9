"""Bytes per tile and throughput of codecs for the tiles of a store: the measurements of the table in docs/store.md.

    python benchmarks/codecs.py STORE [TILES]

One thread. Candidates marked * are not in the Zarr v3 specification: zarr-python warns about them, other readers may not know them.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from numcodecs import blosc, gzip, zstd

from samdiff.pipeline.shards.reader import open_store

Codec = tuple[Callable[[np.ndarray], bytes], Callable[[bytes], object]]


def _zstd(level: int) -> Codec:
    return lambda tile: zstd.compress(tile, level), zstd.decompress


def _planar(level: int) -> Codec:
    def decode(data: bytes) -> np.ndarray:
        flat = np.frombuffer(zstd.decompress(data), np.uint8)
        size = round((flat.size // 3) ** 0.5)
        return np.ascontiguousarray(flat.reshape(3, size, size).transpose(1, 2, 0))

    return lambda tile: zstd.compress(np.ascontiguousarray(tile.transpose(2, 0, 1)), level), decode


def _delta(level: int) -> Codec:
    """Differences along the row, per channel, modulo 256."""

    def encode(tile: np.ndarray) -> bytes:
        difference = tile.copy()
        difference[:, 1:] -= tile[:, :-1]
        return zstd.compress(difference, level)

    def decode(data: bytes) -> np.ndarray:
        flat = np.frombuffer(zstd.decompress(data), np.uint8)
        size = round((flat.size // 3) ** 0.5)
        return np.cumsum(flat.reshape(size, size, 3), axis=1, dtype=np.uint8)

    return encode, decode


def _blosc(level: int, shuffle: int) -> Codec:
    return lambda tile: blosc.compress(tile, b"zstd", level, shuffle, 0), blosc.decompress


def _gzip(level: int) -> Codec:
    codec = gzip.GZip(level)
    return lambda tile: codec.encode(tile), codec.decode


ANY = {f"zstd {level}": _zstd(level) for level in (1, 3, 9, 12)}
ANY |= {"blosc zstd 3, shuffle": _blosc(3, 1), "blosc zstd 3, bit shuffle": _blosc(3, 2), "gzip 6": _gzip(6)}
PIXELS = {"planar, zstd 3": _planar(3), "delta, zstd 1 *": _delta(1), "delta, zstd 3 *": _delta(3)}


def main() -> None:
    """Print one Markdown table per array."""
    blosc.use_threads = False
    store = open_store(sys.argv[1])
    count = min(int(sys.argv[2]) if len(sys.argv) > 2 else 60, len(store))
    rows = np.linspace(0, len(store) - 1, count).astype(int)
    for name in ("hr", "lr", "labels"):
        tiles = list(store.read_tiles(name, rows))
        print(f"\n| {name}, {count} tiles | bytes per tile | of raw | encode tiles/s | decode tiles/s |\n|---|---|---|---|---|")
        for codec, (encode, decode) in (ANY if name == "labels" else {**ANY, **PIXELS}).items():
            start = time.perf_counter()
            data = [encode(tile) for tile in tiles]
            middle = time.perf_counter()
            back = [decode(part) for part in data]
            end = time.perf_counter()
            assert all(np.asarray(memoryview(b)).tobytes() == t.tobytes() for b, t in zip(back, tiles, strict=True))
            size, raw = sum(map(len, data)) / count, tiles[0].nbytes
            print(
                f"| {codec} | {size:.0f} | {100 * size / raw:.2f} % | {count / (middle - start):.0f} | {count / (end - middle):.0f} |"
            )


if __name__ == "__main__":
    main()
