"""Structural encoding from run lengths against decoding each mask and multiplying it by the table: 2040 x 1356, 100 masks.

    python benchmarks/structure.py

Both sides start from the same compressed COCO strings and give the same labels and codes. Prints the medians and their ratio.
"""

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from pycocotools import mask as coco

from samdiff.pipeline.encode.rle import encode, to_coco
from samdiff.pipeline.encode.structure import encode_structure, rope_table
from samdiff.runtime import setup_process

HEIGHT, WIDTH, MASKS, RUNS = 1356, 2040, 100, 9


def natural_masks(seed: int = 0) -> list[dict[str, object]]:
    """Masks of many sizes with ragged edges and holes: thresholded smooth noise inside ellipses."""
    random, masks = np.random.default_rng(seed), []
    for _ in range(MASKS):
        noise = cv2.resize(random.normal(size=(30, 45)).astype(np.float32), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        inside = np.zeros((HEIGHT, WIDTH), np.uint8)
        axes = [int(a) for a in np.exp(random.uniform(np.log(30), np.log(600), 2))]
        centre = (int(random.integers(WIDTH)), int(random.integers(HEIGHT)))
        cv2.ellipse(inside, centre, axes, float(random.uniform(0, 180)), 0, 360, 1, -1)
        masks.append(to_coco(encode((noise > -0.7) & (inside > 0)), HEIGHT, WIDTH))
    return masks


def by_decoding(masks: list[dict[str, object]], table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The plain implementation: each full mask, times the table."""
    labels, codes = np.zeros(table.shape, np.uint16), np.zeros((len(masks), 2), np.float32)
    for k, rle in enumerate(masks):
        mask = coco.decode(rle)
        total, area = (mask * table).sum(dtype=np.float64), int(mask.sum())
        codes[k] = total / max(1, area), total / table.size
        labels[mask.astype(bool)] = k + 1
    return labels, codes


def median(work: Callable[[], object]) -> float:
    """Median of several runs in milliseconds, after one warm-up run."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    """Compare both implementations on one thread."""
    setup_process(threads=1)
    masks, table = natural_masks(), rope_table(HEIGHT, WIDTH)
    plain, ours = by_decoding(masks, table), encode_structure(masks, HEIGHT, WIDTH)
    assert np.array_equal(plain[0], ours.labels)
    assert np.abs(plain[1] - ours.codes).max() < 1e-5
    slow, fast = median(lambda: by_decoding(masks, table)), median(lambda: encode_structure(masks, HEIGHT, WIDTH))
    covered = sum(int(coco.area(mask)) for mask in masks) / table.size
    print(f"{WIDTH} x {HEIGHT}, {MASKS} masks covering {covered:.1f} times the image, median of {RUNS} runs, one thread")
    print(f"decoded masks times the table: {slow:8.1f} ms (the table itself not counted)")
    print(f"encode_structure from runs:    {fast:8.1f} ms")
    print(f"ratio: {slow / fast:.0f}")


if __name__ == "__main__":
    main()
