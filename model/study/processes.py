"""Several processes of this machine at work on one study, each with one compute thread.

Each is the leader of its own process group, so Ctrl-C reaches only this process, which then asks them to stop (SIGTERM): each saves its
state. They also stop when this process ends in any way. Their output goes to OUT/logs/.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from ...errors import SamdiffError, printable
from ...runtime import sigterm_as_interrupt

_POLL = 2.0  # seconds between two looks at the processes
_STOPPED = 130  # exit status of a process that was asked to stop
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_workers(file: Path, out: Path, *, count: int, device: str, on_look: Callable[[], object], poll: float = _POLL) -> None:
    """Work on a study with several processes until all have ended.

    Args:
        file: the study's file.
        out: its folder, which exists.
        count: number of processes.
        device: that each computes on.
        on_look: called every `poll` seconds, such as to show the queue.
        poll: in seconds.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; all processes have saved their states and ended.
        SamdiffError: a process ended with an error; the others have finished the queue.
    """
    context = multiprocessing.get_context("spawn")
    logs = [out / "logs" / f"worker-{number}.txt" for number in range(1, count + 1)]
    with _one_thread():
        workers = [context.Process(target=_worker, args=(str(file), str(out), device, str(log))) for log in logs]
        for worker in workers:
            worker.start()
    try:
        with sigterm_as_interrupt():
            while any(worker.is_alive() for worker in workers):
                wait([worker.sentinel for worker in workers if worker.is_alive()], timeout=poll)
                on_look()
    finally:
        _stop(workers)
    broken = [(log, worker.exitcode) for log, worker in zip(logs, workers, strict=True) if worker.exitcode]
    if broken:
        log, status = broken[0]
        raise SamdiffError(
            f"--workers: {len(broken)} of {count} processes ended early, one with status {status}: {printable(_last_line(log))}; "
            f"see {printable(log)}. The same command resumes"
        )


def _stop(workers: Sequence[BaseProcess]) -> None:
    """Ask all processes to stop, and wait until they have saved their states; a second Ctrl-C ends the waiting."""
    for worker in workers:
        if worker.is_alive():
            worker.terminate()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


def _worker(file: str, out: str, device: str, log: str) -> None:
    """The main function of a process."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # out of reach of the terminal's Ctrl-C
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    from ...runtime import pick_device, setup_process
    from .checks import open_study
    from .config import read_study
    from .work import work

    setup_process(1)
    try:
        work(open_study(read_study(Path(file)), Path(out), pick_device(device)), report=_to_log)
    except KeyboardInterrupt:
        sys.exit(_STOPPED)
    except SamdiffError as error:
        _to_log(f"samdiff: {error}")
        sys.exit(1)


def _stop_with_parent() -> None:
    """SIGTERM for this process as soon as its parent has ended, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _to_log(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace")[-4096:].splitlines()
    except OSError:
        return "no message"
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, libraries of processes that are started compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
