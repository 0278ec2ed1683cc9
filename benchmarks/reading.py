"""Images read and degraded per second of CPU time, against plain `cv2.imread`.

    python benchmarks/reading.py [FOLDER …]

FOLDER: images (default: the samples), also written as JPEG into a temporary folder. Each column does all that the one before it does:
decoding with all checks, then the bicubic LR, or the blind LR, or the bicubic LR made ahead of the caller in two threads.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2

from samdiff.pipeline.degrade.recipes import degrade
from samdiff.pipeline.images.decode import map_ahead, read_rgb
from samdiff.pipeline.images.sources import ImageFile, SourceReader, list_source
from samdiff.pipeline.prepare.scan import crop_to_scale
from samdiff.runtime import setup_process

RUNS = 3


def hr_and_lr(image: ImageFile, source_reader: SourceReader, kind: str = "bicubic") -> None:
    """The work of the stage `tiles` on an image before it cuts tiles."""
    degrade(crop_to_scale(read_rgb(image, source_reader=source_reader).pixels, 4), kind, 4)


def rate(images: Sequence[ImageFile], work: Callable[[ImageFile, SourceReader], object], runs: int = RUNS) -> float:
    """Images per second: the median of several rounds."""
    times = []
    with SourceReader() as source_reader:
        for _ in range(runs):
            start = time.process_time()
            for image in images:
                work(image, source_reader)
            times.append(time.process_time() - start)
    return len(images) / statistics.median(times)


def ahead(images: Sequence[ImageFile]) -> float:
    """The same with `map_ahead`."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in map_ahead(hr_and_lr, images):
            pass
        times.append(time.process_time() - start)
    return len(images) / statistics.median(times)


def main() -> None:
    """One line for each source and kind of file."""
    setup_process(1)
    for source in sys.argv[1:] or ["samples"]:
        originals = list_source(source)
        with tempfile.TemporaryDirectory() as folder:
            for k, image in enumerate(originals):
                cv2.imwrite(str(Path(folder, f"{k}.jpg")), cv2.imread(image.path), [cv2.IMWRITE_JPEG_QUALITY, 95])
            for name, images in (("as they are", originals), ("as JPEG", list_source(folder))):
                plain = rate(images, lambda image, _: cv2.imread(image.path))
                ours = rate(images, lambda image, source_reader: read_rgb(image, source_reader=source_reader))
                bicubic, blind = rate(images, hr_and_lr), rate(images, partial(hr_and_lr, kind="blind"), 1)
                print(
                    f"{Path(source).name}, {name}, {len(images)} images: cv2.imread {plain:.1f}/s, read_rgb {ours:.1f}/s "
                    f"({ours / plain:.2f} of it), with bicubic LR {bicubic:.1f}/s, with blind LR {blind:.1f}/s, "
                    f"bicubic ahead in threads {ahead(images):.1f}/s"
                )


if __name__ == "__main__":
    main()
