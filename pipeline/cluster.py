"""The mask stage on a Dask cluster: one of this machine's processes, or one that runs elsewhere.

Tasks are single pictures and give their records back; this process alone writes. So a task may run twice, a worker may die, and the
bytes of the store are those of a run without a cluster, as long as every worker computes with the same number of threads (law 5).
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from distributed import CancelledError, Client, KilledWorker, LocalCluster, WorkerPlugin, as_completed, get_worker

from ..errors import ConfigError, ImageError, SamdiffError, StoreError
from ..runtime import setup_process
from .prepare import UNCOMPARED, MaskSource
from .scan import Found
from .segment import Read, Result, local_records
from .shards import canonical, digest
from .sources import Picture
from .staging import ImageRecord, differences

log = logging.getLogger(__name__)

_WAIT = 60  # seconds for a scheduler or a first worker to appear


class Crew:
    """Workers that make records. A context manager; `crew.records` goes to `prepare(maker=…)`."""

    def __init__(
        self,
        make: Callable[[], MaskSource],
        describe: Mapping[str, Any],
        *,
        address: str | None = None,
        workers: int = 1,
        threads: int = 1,
    ) -> None:
        """
        Args:
            make: makes the segmenter, once on each worker; picklable.
            describe: what it must say of itself there, so that no worker has other weights or another release.
            address: a running scheduler's, such as `tcp://host:8786`; None starts `workers` processes on this machine.
            workers: how many, without an address.
            threads: CPU threads of each segmenter; the same everywhere.

        Raises:
            ConfigError: no scheduler answers at the address, or it has no worker.
        """
        self._stack = ExitStack()
        try:
            self.client = self._connect(address, workers)
            self._plugin = SegmenterPlugin(make, describe, threads)
            self.client.register_plugin(self._plugin)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def dashboard(self) -> str | None:
        """Where the cluster can be watched; None where bokeh, which draws the page, is not installed."""
        return self.client.dashboard_link if importlib.util.find_spec("bokeh") else None

    def records(self, items: Sequence[Found], read: Read) -> Iterator[Result]:
        """Records of pictures as they are finished; only a few pictures per worker are on their way at a time.

        Raises:
            StoreError: workers died again and again over one picture, or the scheduler is gone.
            SamdiffError: a worker cannot load the segmenter, or has another one.
        """
        left, on_the_way = iter(items), {}
        done = as_completed()
        resources = self._resources()

        def send(count: int) -> None:
            for item in (item for item, _ in zip(left, range(count), strict=False)):
                future = self.client.submit(_record, self._plugin.name, _absolute(item), read, pure=False, resources=resources)
                on_the_way[future.key] = item
                done.add(future)

        send(3 * max(1, sum(self.client.nthreads().values())))
        for future in done:
            item = on_the_way.pop(future.key)
            try:
                result: ImageRecord | ImageError = future.result()
            except KilledWorker as error:
                raise StoreError(
                    f"{item.picture.name}: the workers that had it died again and again (out of memory?); "
                    "see their logs, give them more memory or use fewer; the same command goes on from here"
                ) from error
            except CancelledError as error:
                raise StoreError(
                    f"{item.picture.name}: the connection to the scheduler was lost; see to it that `dask scheduler` is running; "
                    "the same command goes on from here"
                ) from error
            future.release()
            send(1)  # as workers join or leave, the window follows the rate at which results come
            yield item, result

    def _connect(self, address: str | None, workers: int) -> Client:
        if address is None:
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=None,
                dashboard_address="127.0.0.1:0" if importlib.util.find_spec("bokeh") else None,
                silence_logs=logging.ERROR,
            )
            self._stack.enter_context(cluster)
            return self._stack.enter_context(Client(cluster))
        try:
            client = self._stack.enter_context(Client(address, timeout=_WAIT))
            client.wait_for_workers(1, timeout=_WAIT)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"--dask {address}: no scheduler with a worker answers there ({error}); start `dask scheduler` and `dask worker`"
            ) from error
        return client

    def _resources(self) -> dict[str, int] | None:
        """One GPU for each task where workers were started with `--resources GPU=1`."""
        workers = self.client.scheduler_info()["workers"].values()
        return {"GPU": 1} if any("GPU" in worker.get("resources", {}) for worker in workers) else None


class SegmenterPlugin(WorkerPlugin):
    """One segmenter on each worker, loaded with the first picture, used for one picture at a time."""

    def __init__(self, make: Callable[[], MaskSource], describe: Mapping[str, Any], threads: int) -> None:
        self.make, self.expected, self.threads = make, _comparable(describe), threads
        self.name = f"samdiff-{digest(canonical(self.expected))[:16]}-{threads}"

    def setup(self, worker: Any) -> None:
        """Called by the worker when it starts or when the plugin comes; the segmenter itself waits for the first picture."""
        self.masks: MaskSource | None = None
        self.lock = threading.Lock()

    def record(self, item: Found, read: Read) -> ImageRecord | ImageError:
        """The record of one picture."""
        with self.lock:
            if self.masks is None:
                setup_process(self.threads)
                masks = self.make()
                changed = differences(self.expected, _comparable(masks.describe()))
                if changed:
                    raise SamdiffError(
                        f"a worker has another segmenter ({'; '.join(changed)}); install the same one everywhere"
                    )
                self.masks = masks
            ((_, result),) = local_records(self.masks, [item], read)
            return result


def _record(plugin: str, item: Found, read: Read) -> ImageRecord | ImageError:
    segmenter = get_worker().plugins[plugin]
    assert isinstance(segmenter, SegmenterPlugin)
    return segmenter.record(item, read)


def _absolute(item: Found) -> Found:
    """Workers may have another current folder."""

    def moved(picture: Picture) -> Picture:
        return replace(picture, path=os.path.abspath(picture.path))

    return replace(item, picture=moved(item.picture), lr=None if item.lr is None else moved(item.lr))


def _comparable(describe: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal on all workers: not versions, and of the weights their content alone."""
    facts = {key: value for key, value in describe.items() if key not in UNCOMPARED}
    if isinstance(facts.get("weights"), Mapping):
        facts["weights"] = facts["weights"].get("sha256")
    return facts
