"""Compute threads: as many as cores are free, asleep while they wait, and the user's own settings untouched."""

import os
import subprocess
import sys
import time

import pytest
import torch

from samdiff.cli import main
from samdiff.model.training.run_dir import recorded_threads, threads_to_resume
from samdiff.runtime import busy_cores, choose_threads, cpu_quota, wait_without_spinning

from ..helpers.stores import make_store

BURN = "import time; end = time.time() + 30\nwhile time.time() < end: pass"


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(8, 0.1, 8), (8, 2.2, 6), (2, 0.3, 2), (2, 1.1, 1), (2, 2.0, 1), (1, 1.0, 1), (4, None, 4)]
)
def test_only_free_cores_count(cores: int, busy: float | None, threads: int) -> None:
    assert choose_threads(cores, busy) == threads


@pytest.mark.parametrize(
    ("busy", "usable", "quota", "threads"),
    [
        (0.0, 16, None, 8),
        (1.0, 16, None, 8),  # hyper-threading: 8 cores, 16 logical
        (12.0, 16, None, 4),
        (16.0, 16, None, 1),
        (0.0, 64, 2.0, 2),  # a container of two cores on a machine of 64
        (0.0, 64, 0.5, 1),
        (None, 64, 1.5, 2),
        (63.0, 64, 4.0, 1),
    ],
)
def test_hyper_threads_and_quotas(busy: float | None, usable: int, quota: float | None, threads: int) -> None:
    assert choose_threads(8, busy, usable, quota) == threads


@pytest.mark.parametrize(
    "text", ["", "cpu0\n", "cpu0 1 2\n", "cpu0 0 0 0 0 0 0 0 0\n", "cpu99999 1 2 3 4 5 6 7 8\n", "\n", "cpu0 a b c d e f g h\n"]
)
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_counters_that_tell_nothing_are_unknown(monkeypatch, text: str) -> None:
    """Sandboxes show no cores, those of others, or counters that stand still."""
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: text)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert busy_cores(0) is None


def test_the_quota_of_control_groups(tmp_path) -> None:
    own, root = tmp_path / "own", tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "cpu" / "c").mkdir(parents=True)
    assert cpu_quota(root, own) is None  # no Linux
    own.write_text("0::/a/b\n")
    assert cpu_quota(root, own) is None
    (root / "a" / "b" / "cpu.max").write_text("max 100000\n")
    assert cpu_quota(root, own) is None
    (root / "a" / "cpu.max").write_text("150000 100000\n")  # of the group above
    assert cpu_quota(root, own) == 1.5
    own.write_text("0::/elsewhere\n")  # a path of the host's that the container does not see
    assert cpu_quota(root, own) is None
    (root / "cpu.max").write_text("300000 100000\n")
    assert cpu_quota(root, own) == 3
    own.write_text("3:cpuset:/c\n4:cpu,cpuacct:/c\n")
    (root / "cpu" / "c" / "cpu.cfs_period_us").write_text("100000\n")
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(root, own) is None
    (root / "cpu" / "c" / "cpu.cfs_quota_us").write_text("250000\n")
    assert cpu_quota(root, own) == 2.5
    own.write_text("odd")
    assert cpu_quota(root, own) is None


def test_a_run_of_a_larger_machine_and_a_request_of_the_user(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"threads": 64}')
    assert threads_to_resume(tmp_path, 64, {}) == 64
    assert threads_to_resume(tmp_path, 2, {}) is None  # 64 threads would crawl on 2 cores
    assert threads_to_resume(tmp_path, 64, {"OMP_NUM_THREADS": "1"}) is None  # set by torchrun or the user


def test_own_settings_of_the_user_stay() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "7"}
        wait_without_spinning(environment)
        assert environment == {name: "7"}
    environment = {}
    wait_without_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}


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
    code = "import os, sys\nfrom samdiff.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\nprint(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP", "GOMP", "KMP"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-2:] == ["3000", "False"]


def test_a_resumed_run_computes_with_the_threads_that_it_was_begun_with(tmp_path, monkeypatch, capsys):
    """Another number splits sums differently: the bits of a resume would depend on how busy the machine is."""
    store = make_store(tmp_path / "a.zarr")
    words = ["train", "--shards", str(store), "--out", str(tmp_path / "r"), "--preset", "tiny", "--set", "train.patch=12"]
    words += ["--set", "train.batch=2", "--steps", "0", "--rrdb-steps", "0", "--set", "validate.every=0"]
    requested = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for module in ("runtime", "model.training.run_dir"):
        monkeypatch.setattr(f"samdiff.{module}.usable_cores", lambda: 8)
    monkeypatch.setattr(
        "samdiff.runtime.setup_process", lambda threads=None: requested.append(threads) or torch.set_num_threads(threads or 3)
    )
    before = torch.get_num_threads()
    try:
        for more in ([], [], ["--threads", "1"]):
            with pytest.raises(SystemExit) as ended:
                main([*words, *more])
            assert not ended.value.code
    finally:
        torch.set_num_threads(before)
    assert requested == [None, 3, 1]
    reported = capsys.readouterr().out
    assert reported.count("3 of 8 compute threads, as before (--threads N decides otherwise)") == 1
    assert reported.count("changed in this run: compute threads: was 3, now 1") == 1
    for odd in ("[]", '{"threads": "3"}', '{"threads": true}', '{"threads": 100000}', "{"):
        (tmp_path / "r" / "config.json").write_text(odd)
        assert recorded_threads(tmp_path / "r") is None
