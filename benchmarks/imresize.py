"""MATLAB's imresize against a plain NumPy implementation that gathers and multiplies per pass: 2040 x 1356 and smaller, uint8.

    python benchmarks/imresize.py

Both sides give the same bytes. Prints the medians and their ratio.
"""

import math
import statistics
import time
from collections.abc import Callable

import numpy as np

from samdiff.pipeline.degrade.imresize import imresize, resize_weights

RUNS = 9


def plain(image: np.ndarray, scale: float) -> np.ndarray:
    """Each pass: gather all neighbours, multiply in float64, add, round. [H, W, C] uint8."""
    rows, columns = (math.ceil(scale * side) for side in image.shape[:2])
    indices, weights = resize_weights(image.shape[0], rows, scale)
    sums = (weights[:, :, None, None] * image[indices].astype(np.float64)).sum(axis=1)
    image = np.clip(np.floor(sums + 0.5), 0, 255).astype(np.uint8)
    indices, weights = resize_weights(image.shape[1], columns, scale)
    sums = (weights[None, :, :, None] * image[:, indices].astype(np.float64)).sum(axis=2)
    return np.clip(np.floor(sums + 0.5), 0, 255).astype(np.uint8)


def median(work: Callable[[], object]) -> float:
    """Median of several runs in milliseconds, after one warm-up run."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    """Compare both implementations at several scales."""
    print(f"median of {RUNS} runs")
    for height, width, scale, name in (
        (1356, 2040, 1 / 4, "1/4"),
        (2040, 1356, 1 / 4, "1/4"),
        (1356, 2040, 1 / 2, "1/2"),
        (1356, 2040, 1 / 3, "1/3"),
        (1356, 2040, 1 / 8, "1/8"),
        (339, 510, 4, "4"),
    ):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        different = np.count_nonzero(
            plain(image, scale) != imresize(image, scale)
        )  # scale 3: another order of summation changes the rounding of halves
        slow, fast = median(lambda: plain(image, scale)), median(lambda: imresize(image, scale))  # noqa: B023
        print(f"{width} x {height} x {name:3}: numpy {slow:7.1f} ms, imresize {fast:6.1f} ms, ratio {slow / fast:5.1f}", end="")
        print("" if different == 0 else f"  ({different} values differ)")


if __name__ == "__main__":
    main()
