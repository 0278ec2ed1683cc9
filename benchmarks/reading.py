"""Images read and degraded per second of CPU time, against plain `cv2.imread`.

    python benchmarks/reading.py [FOLDER …]

FOLDER: images (default: the samples), also written as JPEG into a temporary folder. Each column does all that the one before it does:
decoding with all checks, then the bicubic LR, or the blind LR, or the bicubic LR made ahead of the caller in two threads.

The last line of a source is the mask stage's own reading: decoding with all checks and resizing for SAM's encoder, images/s of CPU time; and how
much of it is hidden behind a device that is busy for as long, or for half as long, with each image (a sleep, which leaves the core free).
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2

from samdiff.pipeline.degrade.recipes import degrade
from samdiff.pipeline.images.decode import map_ahead, read_rgb
from samdiff.pipeline.images.limits import Limits
from samdiff.pipeline.images.sources import ImageFile, SourceReader, list_source
from samdiff.pipeline.masks.generator import MaskGenerator, Preprocessed
from samdiff.pipeline.prepare.mask_stage import local_masks
from samdiff.pipeline.prepare.scan import SourceImage, crop_to_scale, read_usable, scan
from samdiff.pipeline.sam.load import build_segmenter
from samdiff.runtime import setup_process

RUNS = 3
Item = TypeVar("Item")


def hr_and_lr(image: ImageFile, source_reader: SourceReader, kind: str = "bicubic") -> None:
    """The work of the stage `tiles` on an image before it cuts tiles."""
    degrade(crop_to_scale(read_rgb(image, source_reader=source_reader).pixels, 4), kind, 4)


def rate(images: Sequence[Item], work: Callable[[Item, SourceReader], object], runs: int = RUNS) -> float:
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


class SleepingDevice:
    """A segmenter with SAM's preprocessing, whose device takes so many seconds for each image and finds no masks."""

    def __init__(self, generator: MaskGenerator, seconds: float = 0.0) -> None:
        self.preprocess_ahead, self.seconds = generator.preprocess_ahead, seconds

    def describe(self) -> dict[str, object]:
        """Never stored."""
        return {}

    def generate_batch(self, images: Iterable[Preprocessed]) -> Iterator[list[dict[str, object]]]:
        """No masks, late."""
        for _ in images:
            time.sleep(self.seconds)
            yield []


def hidden(source: str, generator: MaskGenerator) -> str:
    """One line: the mask stage's reading alone, and behind a device."""
    items, read = scan(source), partial(read_usable, scale=4, tile=64, limits=Limits())

    def one(item: SourceImage, source_reader: SourceReader) -> None:
        generator.preprocess_ahead(read(item, source_reader).pixels)

    def alone(item: SourceImage, source_reader: SourceReader, seconds: float) -> None:
        one(item, source_reader)
        time.sleep(seconds)

    def in_turn(seconds: float) -> float:
        begun = time.perf_counter()
        with SourceReader() as source_reader:
            for item in items:
                alone(item, source_reader, seconds)
        return (time.perf_counter() - begun) / len(items)

    cpu, wall = rate(items, one), statistics.median(in_turn(0.0) for _ in range(RUNS))
    shares = []
    for factor in (1.0, 0.5):
        seconds, gains = factor * wall, []
        for _ in range(RUNS):
            together = in_turn(seconds)
            begun = time.perf_counter()
            assert len(list(local_masks(SleepingDevice(generator, seconds), items, read))) == len(items)
            gains.append((together - (time.perf_counter() - begun) / len(items)) / (together - seconds))
        shares.append(f"{100 * statistics.median(gains):.0f} % hidden behind a device's {1000 * seconds:.0f} ms per image")
    return f"{Path(source).name}: read and resized for the encoder {cpu:.1f}/s, {1000 * wall:.0f} ms each; {', '.join(shares)}"


def main() -> None:
    """One line for each source and kind of file."""
    setup_process(1)
    generator = MaskGenerator(build_segmenter("mobile_sam"), points_per_side=1)  # only its preprocessing is used
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
        print(hidden(source, generator))


if __name__ == "__main__":
    main()
