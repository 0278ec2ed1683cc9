"""Compute threads: as many as cores are free, asleep while they wait, and the user's own settings untouched."""

import os
import subprocess
import sys
import time

import pytest
import torch

from samdiff.cli import main
from samdiff.model.folder import recorded_threads
from samdiff.runtime import busy_cores, choose_threads, wait_without_spinning

from .stores import make_store

BURN = "import time; end = time.time() + 30\nwhile time.time() < end: pass"


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(8, 0.1, 8), (8, 2.2, 6), (2, 0.3, 2), (2, 1.1, 1), (2, 2.0, 1), (1, 1.0, 1), (4, None, 4)]
)
def test_only_free_cores_count(cores: int, busy: float | None, threads: int) -> None:
    assert choose_threads(cores, busy) == threads


def test_own_settings_of_the_user_stay() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "7"}
        wait_without_spinning(environment)
        assert environment == {name: "7"}
    environment = {}
    wait_without_spinning(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_busy_core_is_seen() -> None:
    core = min(os.sched_getaffinity(0))
    code = f"import os; from samdiff.runtime import busy_cores; os.sched_setaffinity(0, {{{core}}}); print(busy_cores(0.5))"
    with subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{core}}})\n{BURN}"]) as burner:
        try:
            time.sleep(0.5)
            seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        finally:
            burner.kill()
    assert float(seen.stdout) > 0.6
    assert busy_cores(0.05) is not None


def test_the_command_line_sets_the_policy_before_pytorch_is_loaded() -> None:
    code = "import os, sys\nfrom samdiff.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\nprint(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-2:] == ["PASSIVE", "False"]


def test_a_resumed_run_computes_with_the_threads_that_it_was_begun_with(tmp_path, monkeypatch):
    """Another number splits sums differently: the bits of a resume would depend on how busy the machine is."""
    store = make_store(tmp_path / "a.zarr")
    words = ["train", "--shards", str(store), "--out", str(tmp_path / "r"), "--preset", "tiny", "--set", "train.patch=12"]
    words += ["--set", "train.batch=2", "--steps", "0", "--rrdb-steps", "0", "--set", "validate.every=0"]
    asked = []
    monkeypatch.setattr("samdiff.runtime.setup_process", lambda threads=None: asked.append(threads) or torch.set_num_threads(3))
    before = torch.get_num_threads()
    try:
        for more in ([], [], ["--threads", "1"]):
            with pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert not ended.value.code
    finally:
        torch.set_num_threads(before)
    assert asked == [None, 3, 1]
    for odd in ("[]", '{"threads": "3"}', '{"threads": true}', '{"threads": 100000}', "{"):
        (tmp_path / "r" / "config.json").write_text(odd)
        assert recorded_threads(tmp_path / "r") is None
