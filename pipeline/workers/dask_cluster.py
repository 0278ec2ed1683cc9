"""The mask stage on a Dask cluster: worker processes of this machine, or a cluster that runs elsewhere.

A task segments one image and returns its masks; only this process writes. So a task may run twice, a worker may die, and the bytes of the
store equal those of a run without a cluster, if all workers compute with the same number of threads.

Anybody who can connect to a scheduler can run code as its user. The scheduler of this machine therefore listens only on loopback and uses
TLS with keys that are made for the run and kept in memory. docs/cluster.md describes how to protect another one.
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
from ..prepare.settings import comparable
from ..prepare.staging import ImageMasks
from .tasks import Segmenter, make_image_masks

try:
    import dask.config
    from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, Security

    from .local_workers import LOOPBACK, LocalWorkers
except ImportError as error:
    raise missing_package(error, extra="cluster", what="--workers and --dask") from error

log = logging.getLogger(__name__)

_WAIT = 60  # seconds for a scheduler or a first worker to appear
_TICK = 0.5  # seconds between two checks of the workers
_AHEAD = 3  # images in flight for each thread of the cluster
_ResultFuture: TypeAlias = "Future[ImageMasks | ImageError]"
_RETRIES = 3  # of an image whose result was lost with a worker


class DaskWorkers:
    """Workers that compute masks. A context manager, used as `with DaskWorkers(…) as workers: prepare(…, mask_stage=workers.records)`."""

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
            make: returns the segmenter; called once on each worker; picklable.
            describe: the expected `describe()` of the segmenter on each worker, so that no worker uses other weights or another release.
            address: address of a running scheduler, such as `tls://host:8786`; None: worker processes on this machine.
            workers: number of worker processes, without an address.
            threads: CPU threads of each segmenter, equal on all workers.

        Raises:
            ConfigError: there is no scheduler with a worker at the address, or no local scheduler can be started.
            MissingPackageError: a package for TLS is not installed.
        """
        self.local: LocalWorkers | None = None
        self._segmenter = Segmenter(make, expected=comparable(describe), threads=threads)
        self._checked_at, self._threads = 0.0, 0  # monotonic seconds of the last check of the cluster, and its threads then
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
        """URL of Dask's dashboard; None if bokeh, which draws it, is not installed."""
        return self.client.dashboard_link if importlib.util.find_spec("bokeh") else None

    def records(self, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
        """The masks of each image, in the order in which they are finished. Only a few images per worker are in flight at a time.

        An image whose workers died is tried again at the end, alone, so that other images are not lost with it.

        Raises:
            StoreError: workers died repeatedly while they had the same image, or the connection to the scheduler was lost.
            SamdiffError: a worker cannot load the segmenter, has a different one, or a file changed.
        """
        suspects: list[SourceImage] = []
        consecutive = 0
        for item, outcome in self._outcomes(items, read):
            if not isinstance(outcome, KilledWorker):
                consecutive = 0
                yield item, outcome
                continue
            suspects.append(item)
            consecutive += 1
            if consecutive > 2 * self._window():  # the cause is not a single image
                raise _died(suspects) from outcome
        deadly: list[SourceImage] = []
        for suspect in suspects:
            ((item, outcome),) = self._outcomes([suspect], read)
            if isinstance(outcome, KilledWorker):
                deadly.append(item)  # reported after the other suspects are done
            else:
                yield item, outcome
        if deadly:
            raise _died(deadly)

    def _outcomes(
        self, items: Sequence[SourceImage], read: Read
    ) -> Iterator[tuple[SourceImage, ImageMasks | ImageError | KilledWorker]]:
        """Submits images and yields their results; a KilledWorker stands for an image whose workers died."""
        pending = deque(items)
        done: queue.SimpleQueue[_ResultFuture] = queue.SimpleQueue()
        in_flight: dict[object, tuple[SourceImage, _ResultFuture]] = {}
        lost: Counter[str] = Counter()
        try:
            while pending or in_flight:
                self._check_workers()
                while pending and len(in_flight) < self._window():
                    item = pending.popleft()
                    future = self.client.submit(
                        make_image_masks,
                        self._segmenter,
                        item=_absolute(item),
                        read=read,
                        pure=False,
                        resources=self._resources,
                    )
                    in_flight[future.key] = item, future
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_TICK)
                except queue.Empty:
                    continue
                item, _ = in_flight.pop(future.key)
                outcome = self._outcome(future, item)
                if outcome is None:
                    lost[item.key] += 1
                    if lost[item.key] > _RETRIES or self.client.status != "running":
                        raise _gone(item.image_file.name)
                    pending.appendleft(item)
                    continue
                if self.local is not None and not isinstance(outcome, KilledWorker):
                    self.local.reset_deaths()
                yield item, outcome
        finally:
            for _, future in in_flight.values():
                future.release()

    def _outcome(self, future: _ResultFuture, item: SourceImage) -> ImageMasks | ImageError | KilledWorker | None:
        """The result of a finished task; None if it is lost. The result is still on the worker: if the worker dies now, Dask runs the task again, and this method waits for it."""
        try:
            while True:
                try:
                    result: ImageMasks | ImageError = future.result(timeout=_TICK)
                    return result
                except (TimeoutError, UnboundLocalError) as error:
                    # UnboundLocalError: a bug of `distributed.utils.sync` when its wait is cancelled, such as while a worker leaves
                    if future.status == "error":  # the task raised it
                        raise (future.exception(timeout=_TICK) or error) from None
                    if future.status == "cancelled":
                        return None
                    self._check_workers()
        except KilledWorker as error:
            return error
        except CancelledError:
            return None
        finally:
            future.release()

    def _check_workers(self) -> None:
        """Replace dead local workers, or update the number of threads of another cluster."""
        if self.local is not None:
            self.local.replace_dead()
        elif time.monotonic() - self._checked_at > 4 * _TICK:
            try:
                threads = sum(self.client.nthreads().values())
            except (OSError, RuntimeError) as error:
                raise _gone(str(error)) from error
            if self._threads and not threads:
                log.warning("no worker is left at %s; waiting for one", self.client.scheduler.address)
            self._checked_at, self._threads = time.monotonic(), threads

    def _window(self) -> int:
        """The largest number of images in flight; it changes when workers join and leave."""
        return _AHEAD * max(1, self._threads)

    def _start(self, workers: int, threads: int) -> Client:
        try:
            security = Security.temporary()
        except ImportError as error:  # of cryptography, which makes the keys
            raise missing_package(error, extra="cluster", what="--workers") from error
        dashboard = importlib.util.find_spec("bokeh") is not None
        routes = ["distributed.http.scheduler.info", "distributed.http.statics"] if dashboard else []
        try:
            with dask.config.set({"distributed.scheduler.http.routes": routes}):
                cluster = LocalCluster(
                    n_workers=0,  # `LocalWorkers` starts them
                    threads_per_worker=1,
                    processes=True,
                    host=LOOPBACK,
                    protocol="tls://",
                    security=security,
                    dashboard_address=f"{LOOPBACK}:0",
                    scheduler_kwargs={"dashboard": dashboard},
                    silence_logs=False,
                )
        except RuntimeError as error:
            raise ConfigError(
                f"--workers: no scheduler could be started on {LOOPBACK} ({error}); leave out --workers"
            ) from error
        self._stack.enter_context(cluster)
        client = self._stack.enter_context(Client(cluster))
        self.local = self._stack.enter_context(
            LocalWorkers(cluster.scheduler_address, security, count=workers, threads=threads)
        )
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
        except (TypeError, RuntimeError) as error:  # Dask's errors for an address that does not fit the certificates
            raise ConfigError(
                f"--dask {address}: {error}; tls:// needs certificates in Dask's configuration, tcp:// needs none (docs/cluster.md)"
            ) from error
        return client


def _died(suspects: Sequence[SourceImage]) -> StoreError:
    others = f" (further images: {len(suspects) - 1})" if len(suspects) > 1 else ""
    return StoreError(
        f"{printable(suspects[0].image_file.name)}{others}: each worker that segmented it died (out of memory?); "
        "see their logs, give them more memory or use fewer workers; what was finished is kept, the same command resumes"
    )


def _gone(where: str) -> StoreError:
    return StoreError(
        f"{printable(where)}: the connection to the scheduler was lost; check that `dask scheduler` is running; the same command resumes"
    )


def _resources(client: Client) -> dict[str, int]:
    """One GPU for each task, if workers were started with `--resources GPU=1`."""
    workers = client.scheduler_info()["workers"].values()
    return {"GPU": 1} if any("GPU" in worker.get("resources", {}) for worker in workers) else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Dask's log, including tracebacks of workers that die, unless other libraries' INFO is requested (-vv)."""
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
    """The image with absolute paths, because workers may have another current folder."""

    def absolute(image_file: ImageFile) -> ImageFile:
        return replace(image_file, path=os.path.abspath(image_file.path))

    return replace(item, image_file=absolute(item.image_file), lr=None if item.lr is None else absolute(item.lr))
