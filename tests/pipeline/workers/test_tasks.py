"""A worker's two tasks: one is segmented while the images of the other are read."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.prepare.scan import read_usable, scan
from samdiff.pipeline.workers import tasks

READ = partial(read_usable, scale=4, tile=64, limits=Limits())


class Blocking:
    """Segments one image at a time; the first one waits until the images of the other task have been read."""

    def __init__(self, other_read: threading.Event) -> None:
        self.other_read, self.inside, self.most = other_read, 0, 0

    def describe(self):
        return {"name": "blocking"}

    def generate_batch(self, images):
        for image in images:
            self.inside += 1
            self.most = max(self.most, self.inside)
            assert self.other_read.wait(60), "the other task did not read its images"
            self.inside -= 1
            height, width = image.shape[:2]
            yield [{"segmentation": {"size": [height, width], "counts": [0, height * width]}}]


@pytest.fixture
def items(tmp_path: Path):
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((64, 68, 3), number, np.uint8))
    return scan(tmp_path)


def test_the_images_of_the_next_task_are_read_meanwhile(items, monkeypatch):
    """Both begin; one at a time uses the segmenter, which is loaded once. Each thread sets its own number of compute threads."""
    other_read, names, set_up = threading.Event(), set(), []
    masks, loads = Blocking(other_read), []
    monkeypatch.setattr(tasks, "setup_process", set_up.append)

    def make():
        loads.append(1)
        return masks

    def read(item, source_reader):
        decoded = READ(item, source_reader)
        names.add(item.image_file.name)
        if len(names) == 4:
            other_read.set()
        return decoded

    segmenter = tasks.Segmenter(make, expected=masks.describe(), threads=3)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda some: tasks.make_image_masks(segmenter, some, read), [items[:2], items[2:]]))
    assert [[result.n_masks for result in some] for some in results] == [[1, 1], [1, 1]]
    assert (len(loads), masks.most) == (1, 1)
    assert set_up == [3, 3, 3]  # to load, and once per task
