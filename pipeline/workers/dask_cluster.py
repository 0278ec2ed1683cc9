"""The mask stage on a Dask cluster: one of this machine's processes, or one that runs elsewhere.

Tasks are single images and give their records back; this process alone writes. So a task may run twice, a worker may die, and the
bytes of the store are those of a run without a cluster, as long as every worker computes with the same number of threads (law 5).

Whoever can speak to a scheduler can run code as its user. The one of this machine listens on loopback only and speaks TLS with keys that
are made for the run and kept in memory; how to protect another one says docs/cluster.md.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TypeAlias

from ...errors import ConfigError, ImageError, StoreError, missing_package, printable
from ..images.sources import ImageFile
from ..prepare.mask_stage import Read, Result
from ..prepare.run import MaskSource
from ..prepare.scan import SourceImage
from ..prepare.staging import ImageMasks
from .tasks import Segmenter, comparable, make_image_masks

try:
    import dask.config
    from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, Security

    from .local_workers import LOOPBACK, LocalWorkers
except ImportError as error:
    raise missing_package(error, extra="cluster", what="--workers and --dask") from error

log = logging.getLogger(__name__)

_WAIT = 60  # seconds for a scheduler or a first worker to appear
_TICK = 0.5  # seconds between two looks at the workers
_AHEAD = 3  # images on their way for each thread of the cluster
_Made: TypeAlias = "Future[ImageMasks | ImageError]"
_LOST = 3  # times that an image is sent again when its result went with a worker


class DaskWorkers:
    """Workers that make records. A context manager; `crew.records` goes to `prepare(mask_stage=…)`."""

    def __init__(
        self,
        make: Callable[[], MaskSource],
        describe: Mapping[str, object],
        *,
        address: str | None = None,
        workers: int = 1,
        threads: int = 1,
    ) -> None:
        """
        Args:
            make: makes the segmenter, once on each worker; picklable.
            describe: what it must say of itself there, so that no worker has other weights or another release.
            address: a running scheduler's, such as `tls://host:8786`; None starts `workers` processes on this machine.
            workers: how many, without an address.
            threads: CPU threads of each segmenter; the same everywhere.

        Raises:
            ConfigError: no scheduler answers at the address, or it has no worker.
        """
        self.local: LocalWorkers | None = None
        self._segmenter = Segmenter(make, comparable(describe), threads)
        self._seen, self._threads = 0.0, 0  # when the cluster was asked for its threads, and what it said
        self._stack = ExitStack()
        try:
            self._stack.enter_context(_quiet())
            self.client = self._start(workers, threads) if address is None else self._connect(address)
            self._resources = {} if self.local else _resources(self.client)
            if self.dashboard:
                log.debug("dashboard: %s", self.dashboard)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def dashboard(self) -> str | None:
        """Where the cluster can be watched; None where bokeh, which draws the page, is not installed."""
        return self.client.dashboard_link if importlib.util.find_spec("bokeh") else None

    def records(self, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
        """One record of each image, as they are finished; only a few images per worker are on their way at a time.

        An image whose workers die comes last and alone, so that it does not take the others with it.

        Raises:
            StoreError: workers died again and again over one image, or the scheduler is gone.
            SamdiffError: a worker cannot load the segmenter, or has another one, or a file changed.
        """
        suspects: list[SourceImage] = []
        in_a_row = 0
        for item, outcome in self._outcomes(items, read):
            if not isinstance(outcome, KilledWorker):
                in_a_row = 0
                yield item, outcome
                continue
            suspects.append(item)
            in_a_row += 1
            if in_a_row > 2 * self._window():  # not one image, but all of them
                raise _died(suspects) from outcome
        deadly: list[SourceImage] = []
        for suspect in suspects:
            ((item, outcome),) = self._outcomes([suspect], read)
            if isinstance(outcome, KilledWorker):
                deadly.append(item)  # the others come out first
            else:
                yield item, outcome
        if deadly:
            raise _died(deadly)

    def _outcomes(
        self, items: Sequence[SourceImage], read: Read
    ) -> Iterator[tuple[SourceImage, ImageMasks | ImageError | KilledWorker]]:
        left = deque(items)
        done: queue.SimpleQueue[_Made] = queue.SimpleQueue()
        on_the_way: dict[object, tuple[SourceImage, _Made]] = {}
        lost: Counter[str] = Counter()
        try:
            while left or on_the_way:
                self._tend()
                while left and len(on_the_way) < self._window():
                    item = left.popleft()
                    future = self.client.submit(
                        make_image_masks, self._segmenter, _absolute(item), read, pure=False, resources=self._resources
                    )
                    on_the_way[future.key] = item, future
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_TICK)
                except queue.Empty:
                    continue
                item, _ = on_the_way.pop(future.key)
                outcome = self._outcome(future, item)
                if outcome is None:
                    lost[item.key] += 1
                    if lost[item.key] > _LOST or self.client.status != "running":
                        raise _gone(item.image_file.name)
                    left.appendleft(item)
                    continue
                if self.local is not None and not isinstance(outcome, KilledWorker):
                    self.local.made_something()
                yield item, outcome
        finally:
            for _, future in on_the_way.values():
                future.release()

    def _outcome(self, future: _Made, item: SourceImage) -> ImageMasks | ImageError | KilledWorker | None:
        """The result of a finished task, None if it is lost. It still lies with its worker; if that dies now, the task runs again, and this waits."""
        try:
            while True:
                try:
                    result: ImageMasks | ImageError = future.result(timeout=_TICK)
                    return result
                except (TimeoutError, UnboundLocalError) as error:
                    # the latter: `distributed.utils.sync` has no result to return when its wait is cancelled, as may be while a worker goes
                    if future.status == "error":  # the task's own
                        raise (future.exception(timeout=_TICK) or error) from None
                    if future.status == "cancelled":
                        return None
                    self._tend()
        except KilledWorker as error:
            return error
        except CancelledError:
            return None
        finally:
            future.release()

    def _tend(self) -> None:
        """Replace dead workers of ours; ask another cluster how many threads it has."""
        if self.local is not None:
            self.local.tend()
        elif time.monotonic() - self._seen > 4 * _TICK:
            try:
                threads = sum(self.client.nthreads().values())
            except (OSError, RuntimeError) as error:
                raise _gone(str(error)) from error
            if self._threads and not threads:
                log.warning("no worker is left at %s; waiting for one", self.client.scheduler.address)
            self._seen, self._threads = time.monotonic(), threads

    def _window(self) -> int:
        """How many images may be on their way; it follows the workers as they join and leave."""
        return _AHEAD * max(1, self._threads)

    def _start(self, workers: int, threads: int) -> Client:
        try:
            security = Security.temporary()
        except ImportError as error:  # cryptography makes the keys
            raise missing_package(error, extra="cluster", what="--workers") from error
        drawn = importlib.util.find_spec("bokeh") is not None
        routes = ["distributed.http.scheduler.info", "distributed.http.statics"] if drawn else []
        try:
            with dask.config.set({"distributed.scheduler.http.routes": routes}):
                cluster = LocalCluster(
                    n_workers=0,  # they are ours, see `LocalWorkers`
                    threads_per_worker=1,
                    processes=True,
                    host=LOOPBACK,
                    protocol="tls://",
                    security=security,
                    dashboard_address=f"{LOOPBACK}:0",
                    scheduler_kwargs={"dashboard": drawn},
                    silence_logs=False,
                )
        except RuntimeError as error:
            raise ConfigError(
                f"--workers: no scheduler could be started on {LOOPBACK} ({error}); leave out --workers"
            ) from error
        self._stack.enter_context(cluster)
        client = self._stack.enter_context(Client(cluster))
        self.local = self._stack.enter_context(LocalWorkers(cluster.scheduler_address, security, workers, threads))
        self._threads = workers
        return client

    def _connect(self, address: str) -> Client:
        try:
            client = self._stack.enter_context(Client(address, timeout=_WAIT))
            client.wait_for_workers(1, timeout=_WAIT)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"--dask {address}: no scheduler with a worker answers there ({error}); start `dask scheduler` and `dask worker`, "
                "and give a cluster with TLS its certificates (docs/cluster.md)"
            ) from error
        except (TypeError, RuntimeError) as error:  # Dask's own, for an address and certificates that do not go together
            raise ConfigError(
                f"--dask {address}: {error}; tls:// needs certificates in Dask's configuration, tcp:// needs none (docs/cluster.md)"
            ) from error
        return client


def _died(suspects: Sequence[SourceImage]) -> StoreError:
    others = f" (and {len(suspects) - 1} more images)" if len(suspects) > 1 else ""
    return StoreError(
        f"{printable(suspects[0].image_file.name)}{others}: the workers that had it died again and again (out of memory?); "
        "see their logs, give them more memory or use fewer; what was finished is kept, the same command resumes"
    )


def _gone(where: str) -> StoreError:
    return StoreError(
        f"{printable(where)}: the connection to the scheduler was lost; see to it that `dask scheduler` is running; the same command resumes"
    )


def _resources(client: Client) -> dict[str, int]:
    """One GPU for each task where workers were started with `--resources GPU=1`."""
    workers = client.scheduler_info()["workers"].values()
    return {"GPU": 1} if any("GPU" in worker.get("resources", {}) for worker in workers) else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own lines, tracebacks of workers that die among them, only where the user wants other libraries' INFO (-vv)."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        yield
        return
    loggers = [
        logging.getLogger(name) for name in ("distributed", *logging.root.manager.loggerDict) if name.startswith("distributed")
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _absolute(item: SourceImage) -> SourceImage:
    """Workers may have another current folder."""

    def moved(image_file: ImageFile) -> ImageFile:
        return replace(image_file, path=os.path.abspath(image_file.path))

    return replace(item, image_file=moved(item.image_file), lr=None if item.lr is None else moved(item.lr))
