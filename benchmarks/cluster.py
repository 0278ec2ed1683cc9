"""`prepare` with one and with two Dask workers of one thread each, in turn: images per second, and where the time goes.

    python benchmarks/cluster.py FOLDER [--images 8] [--points-per-side 32] [--rounds 3] [--minutes 11]

All workers are started once, and each makes an image, which loads its segmenter; this is reported as the start. Then each round runs
`prepare` into a new store with one worker and with two. The medians of the rounds are printed:

    masks      images/s from the first task to the last result: computed, sent, saved in the staging folder
    prepare    seconds of the whole run: scan, masks, tiles, commit
    worker     CPU seconds of the workers per image; it grows if the cores share a cache or the memory's bandwidth
    busy       CPU time of the workers, as a share of the mask stage on all of them; the rest is waiting
    prepare's  CPU seconds of the process of `prepare` per image, in the mask stage; it takes them from the workers if no core is free

The ratio of images/s is the product of: two workers, the ratio of CPU seconds per image, the ratio of the busy shares.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.prepare.mask_stage import Read, Result, make_generator, plan_generator
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import SourceImage, read_usable, scan
from samdiff.pipeline.workers.dask_cluster import DaskWorkers
from samdiff.runtime import setup_process

COUNTS = (1, 2)


class Described:
    """The segmenter as `prepare` sees it; the workers load it, this process does not."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        self.facts = facts

    def describe(self) -> dict[str, object]:
        """The facts given."""
        return dict(self.facts)


@dataclass(frozen=True)
class Cost:
    """One run of `prepare`; see the text at the top of this file."""

    rate: float
    """Images per second of the mask stage."""
    total: float
    """Seconds of the whole run."""
    worker: float
    """CPU seconds of the workers per image."""
    busy: float
    """Share of 0 .. 1."""
    ours: float
    """CPU seconds of this process per image, in the mask stage."""


def warm_up(cluster: DaskWorkers, item: SourceImage, read: Read, workers: int) -> None:
    """Process one image per worker, so that each has loaded its segmenter."""
    cluster.client.wait_for_workers(workers)
    used: set[str] = set()
    while len(used) < workers:
        list(cluster.records([item] * (workers - len(used)), read))
        tasks = cluster.client.run(lambda dask_worker: dask_worker.state.executed_count)
        used = {worker for worker, count in tasks.items() if count}


def measure(cluster: DaskWorkers, folder: str, images: int, facts: Mapping[str, object]) -> Cost:
    """One run of `prepare` with running workers."""
    spent: list[float] = []

    def stage(items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
        before, ours, begun = cluster.client.run(time.process_time), time.process_time(), time.perf_counter()
        yield from cluster.records(items, read)
        spent.append(time.perf_counter() - begun)
        spent.append(time.process_time() - ours)
        spent.append(sum(cluster.client.run(time.process_time).values()) - sum(before.values()))

    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        report = prepare(
            folder,
            Path(out) / "store.zarr",
            Described(facts),
            PrepareConfig(scale=4, tile=64),
            limit=images,
            mask_stage=stage,
        )
        total = time.perf_counter() - begun
    assert report.segmented == images, report.skipped
    wall, ours, workers = spent
    count = len(cluster.client.scheduler_info()["workers"])
    return Cost(rate=images / wall, total=total, worker=workers / images, busy=workers / wall / count, ours=ours / images)


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each number."""
    return Cost(**{f.name: statistics.median(getattr(cost, f.name) for cost in costs) for f in fields(Cost)})


def report(workers: int, cost: Cost) -> str:
    """One row of the table."""
    return (
        f"{workers} worker{'s' * (workers > 1)}: masks {cost.rate:.3f} images/s, prepare {cost.total:.1f} s, worker {cost.worker:.2f} CPU s/image, "
        f"busy {100 * cost.busy:.1f} %, prepare's {cost.ours:.3f} CPU s/image"
    )


def main() -> None:
    """Print each run, the medians and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of images")
    parser.add_argument("--images", type=int, default=8, help="use only so many")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--mode", default="exact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=11.0, help="begin no further round that would end later")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    setup_process(1)
    settings = {"mode": arguments.mode, "points_per_side": arguments.points_per_side}
    facts, _ = plan_generator("mobile_sam", "cpu", **settings)
    item = scan(arguments.folder, 1)[0]
    read = partial(read_usable, scale=4, tile=64, limits=Limits())
    costs: dict[int, list[Cost]] = {workers: [] for workers in COUNTS}
    with ExitStack() as stack:
        clusters = {}
        for workers in COUNTS:
            begun = time.perf_counter()
            make = partial(make_generator, "mobile_sam", "cpu", **settings)
            clusters[workers] = stack.enter_context(DaskWorkers(make, facts, workers=workers))
            warm_up(clusters[workers], item, read, workers=workers)
            print(f"{workers} workers: start and first images {time.perf_counter() - begun:.1f} s", flush=True)
        longest = 0.0
        for _ in range(arguments.rounds):
            begun = time.monotonic()
            if begun + longest > end:
                break
            for workers, cluster in clusters.items():
                costs[workers].append(measure(cluster, arguments.folder, arguments.images, facts))
                print(report(workers, costs[workers][-1]), flush=True)
            longest = max(longest, time.monotonic() - begun)
    one, two = (median(costs[workers]) for workers in COUNTS)
    print(f"medians of {len(costs[1])} rounds, {arguments.images} images, {settings}:\n{report(1, one)}\n{report(2, two)}")
    print(
        f"masks {two.rate / one.rate:.2f} times as fast (2 x {one.worker / two.worker:.3f} CPU x {two.busy / one.busy:.3f} busy), "
        f"prepare {one.total / two.total:.2f} times"
    )


if __name__ == "__main__":
    main()
