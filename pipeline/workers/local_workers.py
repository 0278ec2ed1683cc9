"""Worker processes of this machine for a scheduler in this process: started, watched, and started again when they die.

A worker gets its orders (address, keys) through its standard input, which stays open as long as this process lives: at its end the worker
leaves at once, so that nothing is left over however this process ends. It listens on loopback only, and speaks TLS with keys that exist in
these processes alone. Each is the leader of a session of its own: Ctrl-C and a terminal that closes reach this process only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import IO, Any

import dask.config
from distributed import Security, Worker

from ...errors import StoreError, printable

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_KILLED, _FAILED = 50, 3
"""So many workers in a row may be killed, or end with an error of their own, without one result in between."""

_LEAVE = 3  # seconds for a worker to end by itself

_CODE = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from samdiff.pipeline.workers.local_workers import main; main()"


@dataclass(frozen=True)
class Orders:
    """What a worker has to know."""

    address: str
    """The scheduler's, `tls://…`."""
    security: Security
    """Keys of this run."""
    name: str
    folder: str
    """For its temporary files; goes with the last worker."""


class LocalWorkers:
    """So many workers for a scheduler. A context manager; `tend` has to be called now and then.

    Args:
        address: the scheduler's.
        security: keys, as the scheduler has them.
        count: processes.
        threads: CPU threads of each, for libraries that read their number when they are loaded.
    """

    def __init__(self, address: str, security: Security, count: int, threads: int) -> None:
        self._address, self._security = address, security
        self._threads = threads
        self._folder = tempfile.mkdtemp(prefix="samdiff-workers-")
        self._deaths = 0
        self._started = 0
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        try:
            for _ in range(count):
                self._running.append(self._start())
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for process, _log in self._running:
            _close(process.stdin)
        for process, errors in self._running:
            try:
                process.wait(_LEAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            errors.close()
        self._running.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [process.pid for process, _ in self._running]

    def tend(self) -> None:
        """Start another worker for each that has died.

        Raises:
            StoreError: they die again and again, and nothing comes of it.
        """
        for slot, (process, errors) in enumerate(self._running):
            status = process.poll()
            if status is None:
                continue
            self._deaths += 1
            if self._deaths > (_FAILED if status > 0 else _KILLED):
                raise StoreError(
                    f"--workers: {self._deaths} workers in a row ended before they had made anything; the last one {_ending(status, errors)}. "
                    "Leave out --workers to see the error itself; the same command resumes"
                )
            log.info("a worker %s; another one is started", _ending(status, errors))
            _close(process.stdin)
            errors.close()
            self._running[slot] = self._start()

    def made_something(self) -> None:
        """A result came: deaths so far do not count any more."""
        self._deaths = 0

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        self._started += 1
        orders = Orders(self._address, self._security, f"samdiff-{self._started}", self._folder)
        one = {f"{library}_NUM_THREADS": str(self._threads) for library in ("OMP", "MKL", "OPENBLAS")}
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**one, **os.environ},
                start_new_session=True,
            )
        except BaseException:
            errors.close()
            raise
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed already; `tend` sees it
            process.stdin.write(pickle.dumps(sys.path) + pickle.dumps((dask.config.config, orders)))
            process.stdin.flush()
        return process, errors


def _close(pipe: IO[bytes] | None) -> None:
    with contextlib.suppress(BrokenPipeError):
        if pipe is not None:
            pipe.close()


def _ending(status: int, errors: IO[bytes]) -> str:
    """How a process ended, in words, with the last line that it wrote."""
    if status < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"was killed ({known.get(-status, f'signal {-status}')}; out of memory?)"
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    lines = errors.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return f"ended with status {status}: {printable(last)}"


def main() -> None:
    """The worker's process, after its `sys.path` came through standard input."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the process that started it decides
    try:
        config, orders = pickle.load(sys.stdin.buffer)  # noqa: S301 - a pipe that only the process that started this one can write to
    except (EOFError, pickle.UnpicklingError):  # that process has ended already
        return
    threading.Thread(target=_leave_with_parent, args=(orders.folder,), daemon=True).start()
    dask.config.update(dask.config.config, config)
    asyncio.run(_work(orders))


def _leave_with_parent(folder: str) -> None:
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # whatever is computed at this moment is of no use to anybody


async def _work(orders: Orders) -> None:
    options: dict[str, Any] = {"memory_limit": None}  # none; Dask's annotation leaves it out
    with dask.config.set({"distributed.worker.http.routes": []}):  # nothing is served to whoever asks by HTTP
        worker = await Worker(
            orders.address,
            name=orders.name,
            security=orders.security,
            host=LOOPBACK,
            protocol="tls://",
            nthreads=1,
            local_directory=orders.folder,
            death_timeout=60,
            **options,
        )
    await worker.finished()
