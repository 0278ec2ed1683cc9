"""Images per second of the mask stage with one and with two Dask workers of one thread each.

    python benchmarks/cluster.py FOLDER [IMAGES] [POINTS_PER_SIDE]

Each run starts its workers, waits until all of them are there and have made an image (which loads the segmenter), then times the rest.
"""

import sys
import time
from collections.abc import Sequence
from functools import partial

from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.prepare.mask_stage import Read, make_generator
from samdiff.pipeline.prepare.scan import SourceImage, read_usable, scan
from samdiff.pipeline.workers.dask_cluster import DaskWorkers


def warm_up(dask_workers: DaskWorkers, items: Sequence[SourceImage], read: Read, workers: int) -> None:
    """Process one image per worker, so that each has loaded its segmenter."""
    dask_workers.client.wait_for_workers(workers)
    used: set[str] = set()
    while len(used) < workers:
        list(dask_workers.records(items, read))
        tasks = dask_workers.client.run(lambda dask_worker: dask_worker.state.executed_count)
        used = {worker for worker, count in tasks.items() if count}


def main() -> None:
    """Print both rates and their ratio."""
    folder, images, points = sys.argv[1], *(int(value) for value in [*sys.argv[2:], 16, 8][:2])
    make = partial(make_generator, "mobile_sam", "cpu", points_per_side=points)
    describe = make().describe()
    items = scan(folder, images + 2)
    read = partial(read_usable, scale=4, tile=64, limits=Limits())
    rates = []
    for workers in (1, 2):
        with DaskWorkers(make, describe, workers=workers) as dask_workers:
            warm_up(dask_workers, items[:2], read, workers=workers)
            start = time.perf_counter()
            done = len(list(dask_workers.records(items[2:], read)))
            assert done == len(items) - 2, (done, len(items))
            rates.append(done / (time.perf_counter() - start))
            print(f"{workers} workers: {rates[-1]:.3f} images/s ({done} images)", flush=True)
    print(f"ratio {rates[1] / rates[0]:.2f}")


if __name__ == "__main__":
    main()
