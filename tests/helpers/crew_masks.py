"""Segmenters for workers that the tests start; workers import this file by its name, so it stands alone."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class Box:
    """One mask per image, as wide as the image's first pixel says; `seconds` of work for each.

    Args:
        seconds: slept over each image.
        deadly: a first pixel; whoever gets such an image is killed.
    """

    def __init__(self, seconds: float = 0.0, deadly: int = -1) -> None:
        self.seconds, self.deadly = seconds, deadly

    def describe(self) -> dict[str, Any]:
        return {"name": "box"}

    def generate_batch(self, images: Iterable[np.ndarray]) -> Iterator[list[dict[str, Any]]]:
        for image in images:
            height, width = image.shape[:2]
            first = int(image[0, 0, 0])
            if first == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            run = (first + 1) * 7
            yield [{"segmentation": {"size": [height, width], "counts": [5, run, height * width - 5 - run]}}]
