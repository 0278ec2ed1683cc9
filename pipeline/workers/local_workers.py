"""Worker processes of this machine for a scheduler in this process: started, watched, and replaced when they die.

A worker reads its configuration (address, keys) from its standard input, and exits when its standard input is closed. So no worker is left
over, however this process ends. A worker listens only on loopback, and uses TLS with keys that exist only in these processes. It is the
leader of its own session: Ctrl-C and the closing of a terminal reach only this process.
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
from typing import IO

import dask.config
from distributed import Security, Worker

from ...errors import StoreError, printable

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_MAX_KILLED, _MAX_FAILED = 50, 3
"""Limits of workers in a row without a result that are killed, or exit with an error."""

TASKS_PER_WORKER = 2
"""One is segmented while the images of the other are read, see `tasks.make_image_masks`."""

_LEAVE = 3  # seconds until a worker that does not exit is killed

_CODE = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from samdiff.pipeline.workers.local_workers import main; main()"


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a worker, sent to it as a pickle."""

    address: str
    """Address of the scheduler, `tls://…`."""
    security: Security
    """The keys of this run."""
    name: str
    """Name of the worker, unique in this run."""
    folder: str
    """Folder for temporary files, shared by the workers and deleted when they exit."""


class LocalWorkers:
    """Worker processes for a scheduler. A context manager; call `replace_dead` regularly.

    Args:
        address: address of the scheduler.
        security: the scheduler's keys.
        count: number of processes.
        threads: CPU threads of each, for libraries that read this number when they are loaded.
    """

    def __init__(self, address: str, security: Security, *, count: int, threads: int) -> None:
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

    def replace_dead(self) -> None:
        """Start a new worker for each one that has died.

        Raises:
            StoreError: too many have died without a result in between.
        """
        for slot, (process, errors) in enumerate(self._running):
            status = process.poll()
            if status is None:
                continue
            self._deaths += 1
            if self._deaths > (_MAX_FAILED if status > 0 else _MAX_KILLED):
                raise StoreError(
                    f"--workers: workers that ended without a result: {self._deaths} in a row; the last one {_ending(status, errors)}. "
                    "Leave out --workers to see the error itself; the same command resumes"
                )
            log.info("a worker %s; a new one is started", _ending(status, errors))
            _close(process.stdin)
            errors.close()
            self._running[slot] = self._start()

    def reset_deaths(self) -> None:
        """Call this after each result: earlier deaths do not count any more."""
        self._deaths = 0

    def _start(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        self._started += 1
        worker = WorkerConfig(
            address=self._address, security=self._security, name=f"samdiff-{self._started}", folder=self._folder
        )
        threads = {f"{library}_NUM_THREADS": str(self._threads) for library in ("OMP", "MKL", "OPENBLAS")}
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed after the process has ended
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**threads, **os.environ},
                start_new_session=True,
            )
        except BaseException:
            errors.close()
            raise
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # killed already, see `replace_dead`
            process.stdin.write(pickle.dumps(sys.path) + pickle.dumps((dask.config.config, worker)))
            process.stdin.flush()
        return process, errors


def _close(pipe: IO[bytes] | None) -> None:
    with contextlib.suppress(BrokenPipeError):
        if pipe is not None:
            pipe.close()


def _ending(status: int, errors: IO[bytes]) -> str:
    """How a process ended, as a phrase, with the last line of its standard error."""
    if status < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"was killed ({known.get(-status, f'signal {-status}')}; out of memory?)"
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 4096))
    lines = errors.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return f"ended with status {status}: {printable(last)}"


def main() -> None:
    """The main function of a worker process. The code before it has read `sys.path` from standard input."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker exits when its standard input is closed
    try:
        config, worker = pickle.load(sys.stdin.buffer)  # noqa: S301 - a pipe to which only the parent process writes
    except (EOFError, pickle.UnpicklingError):  # the parent process has ended already
        return
    threading.Thread(target=_leave_with_parent, args=(worker.folder,), daemon=True).start()
    dask.config.update(dask.config.config, config)
    asyncio.run(_work(worker))


def _leave_with_parent(folder: str) -> None:
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # at once, because nobody will read the result of the current task


async def _work(config: WorkerConfig) -> None:
    with dask.config.set({"distributed.worker.http.routes": []}):  # no HTTP server
        worker = await Worker(
            config.address,
            name=config.name,
            security=config.security,
            host=LOOPBACK,
            protocol="tls://",
            nthreads=TASKS_PER_WORKER,
            local_directory=config.folder,
            death_timeout=60,
            memory_limit=0,  # no limit
        )
    await worker.finished()
