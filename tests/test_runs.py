"""A run's folder: one process at a time, one set of settings; and what is said about it."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from samdiff import open_store
from samdiff.errors import BusyError
from samdiff.model.folder import asked_of, claim

from .stores import make_store
from .test_train import SMALL, config, run

WORKER = Path(__file__).parent / "ddp_worker.py"


def test_two_at_once_in_one_folder(tmp_path):
    """The second is refused and told which process has it; once that is killed with -9, the folder is free and the run goes on."""
    store = make_store(tmp_path / "a.zarr", n=40)
    command = [sys.executable, str(WORKER), str(store), str(tmp_path / "r"), *SMALL, "train.rrdb_steps=1000000"]
    first = subprocess.Popen(command)
    try:
        while not (tmp_path / "r" / "config.json").exists():
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        with pytest.raises(BusyError, match=rf"another `samdiff train` is at work there \(process {first.pid} on "):
            run(tmp_path, "r")
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert run(tmp_path, "r").exists()


def test_all_processes_end_with_the_reason(tmp_path):
    """Rank 0 finds the folder taken; rank 1 does not wait for it and says the same."""
    store = make_store(tmp_path / "a.zarr", n=40)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    with ExitStack() as held:
        claim(tmp_path / "r", asked_of(config(), [open_store(store)], None, None), held)
        ranks = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(store), str(tmp_path / "r"), *SMALL],
                env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in (0, 1)
        ]
        said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert all(f"at work there (process {os.getpid()} on " in text.splitlines()[-1] for text in said), said
