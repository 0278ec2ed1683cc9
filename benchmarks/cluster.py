"""Images per second of the mask stage with one and with two Dask workers of one thread each.

    python benchmarks/cluster.py FOLDER [IMAGES] [POINTS_PER_SIDE]

Each run starts its workers, lets every one of them do one picture (which loads the segmenter), then times the rest.
"""

import sys
import time
from functools import partial

from samdiff.pipeline.cluster import Crew
from samdiff.pipeline.images import Limits
from samdiff.pipeline.scan import read_usable, scan
from samdiff.pipeline.segment import make_generator


def main() -> None:
    """Print both rates and their ratio."""
    folder, images, points = sys.argv[1], *(int(value) for value in [*sys.argv[2:], 16, 8][:2])
    make = partial(make_generator, "mobile_sam", "cpu", points_per_side=points)
    describe = make().describe()
    items = scan(folder, images + 2)
    read = partial(read_usable, scale=4, tile=64, limits=Limits())
    rates = []
    for workers in (1, 2):
        with Crew(make, describe, workers=workers) as crew:
            list(crew.records(items[:workers], read))
            start = time.perf_counter()
            done = len(list(crew.records(items[2:], read)))
            rates.append(done / (time.perf_counter() - start))
            print(f"{workers} workers: {rates[-1]:.3f} images/s ({done} images)", flush=True)
    print(f"ratio {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
