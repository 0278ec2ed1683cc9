"""The mask stage on a Dask cluster: worker processes of this machine, or a cluster that runs elsewhere.

A task segments a few images and returns their masks; only this process writes. So a task may run twice, a worker may die, and the bytes of
the store equal those of a run without a cluster, if all workers compute with the same number of threads. The images of a task follow each
other in the plan; which worker is free does not matter.

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
from ..masks.settings import ENCODER_BATCH_CUDA
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
_AHEAD = 3  # tasks in flight for each thread of the cluster
_Results: TypeAlias = list[ImageMasks | ImageError]
_ResultFuture: TypeAlias = "Future[_Results]"
_RETRIES = 3  # of a task whose result was lost with a worker


class DaskWorkers:
    """Workers that compute masks. A context manager, used as `with DaskWorkers(…) as workers: prepare(…, mask_stage=workers)`."""

    def __init__(
        self,
        make: Callable[[], MaskSource],
        describe: Mapping[str, object],
        *,
        address: str | None = None,
        workers: int = 1,
        threads: int = 1,
        group: int = 1,
    ) -> None:
        """
        Args:
            make: returns the segmenter; called once on each worker; picklable.
            describe: the expected `describe()` of the segmenter on each worker, so that no worker uses other weights or another release.
            address: address of a running scheduler, such as `tls://host:8786`; None: worker processes on this machine.
            workers: number of worker processes, without an address.
            threads: CPU threads of each segmenter, equal on all workers.
            group: images per task. With workers that offer the resource GPU, at least an encoder batch.

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
            self.group = max(group, ENCODER_BATCH_CUDA) if self._resources else group
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

    def __call__(self, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
        """See `records`."""
        return self.records(items, read)

    def records(self, items: Sequence[SourceImage], read: Read) -> Iterator[Result]:
        """The masks of each image, in the order in which they are finished. Only a few tasks per worker are in flight at a time.

        The images of a task whose workers died are tried again at the end, each alone, so that other images are not lost with them.

        Raises:
            StoreError: workers died repeatedly while they had the same image, or the connection to the scheduler was lost.
            SamdiffError: a worker cannot load the segmenter, has a different one, or a file changed.
        """
        suspects: list[SourceImage] = []
        consecutive = 0
        groups = [items[start : start + self.group] for start in range(0, len(items), self.group)]
        for group, outcome in self._outcomes(groups, read):
            if not isinstance(outcome, KilledWorker):
                consecutive = 0
                yield from zip(group, outcome, strict=True)
                continue
            suspects += group
            consecutive += 1
            if consecutive > 2 * self._window():  # the cause is not a single image
                raise _died(suspects) from outcome
        deadly: list[SourceImage] = []
        for suspect in suspects:
            ((_, outcome),) = self._outcomes([[suspect]], read)
            if isinstance(outcome, KilledWorker):
                deadly.append(suspect)  # reported after the other suspects are done
            else:
                yield suspect, outcome[0]
        if deadly:
            raise _died(deadly)

    def _outcomes(
        self, groups: Sequence[Sequence[SourceImage]], read: Read
    ) -> Iterator[tuple[Sequence[SourceImage], _Results | KilledWorker]]:
        """Submits groups of images and yields their results; a KilledWorker stands for a group whose workers died."""
        pending = deque(groups)
        done: queue.SimpleQueue[_ResultFuture] = queue.SimpleQueue()
        in_flight: dict[object, tuple[Sequence[SourceImage], _ResultFuture]] = {}
        lost: Counter[str] = Counter()
        try:
            while pending or in_flight:
                self._check_workers()
                while pending and len(in_flight) < self._window():
                    group = pending.popleft()
                    future = self.client.submit(
                        make_image_masks,
                        self._segmenter,
                        items=[_absolute(item) for item in group],
                        read=read,
                        pure=False,
                        resources=self._resources,
                    )
                    in_flight[future.key] = group, future
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_TICK)
                except queue.Empty:
                    continue
                group, _ = in_flight.pop(future.key)
                outcome = self._outcome(future)
                if outcome is None:
                    lost[group[0].key] += 1
                    if lost[group[0].key] > _RETRIES or self.client.status != "running":
                        raise _gone(group[0].image_file.name)
                    pending.appendleft(group)
                    continue
                if self.local is not None and not isinstance(outcome, KilledWorker):
                    self.local.reset_deaths()
                yield group, outcome
        finally:
            for _, future in in_flight.values():
                future.release()

    def _outcome(self, future: _ResultFuture) -> _Results | KilledWorker | None:
        """The result of a finished task; None if it is lost. The result is still on the worker: if the worker dies now, Dask runs the task again, and this method waits for it."""
        wait = _TICK
        try:
            while True:
                try:
                    results: _Results = future.result(timeout=wait)
                    return results
                except (TimeoutError, UnboundLocalError) as error:
                    # UnboundLocalError: a bug of `distributed.utils.sync` when its wait is cancelled, such as while a worker leaves
                    if future.status == "error":  # the task raised it
                        raise (future.exception(timeout=_TICK) or error) from None
                    if future.status == "cancelled":
                        return None
                    self._check_workers()
                    wait = min(2 * wait, _WAIT)  # each attempt starts anew: on a busy machine none would ever be in time
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
        """The largest number of tasks in flight; it changes when workers join and leave."""
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
