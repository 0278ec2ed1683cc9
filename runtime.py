"""What belongs to the process, not to a library call: device, threads, allocator, the cache folder.

This is the only place that looks for a GPU or changes process-wide settings (DESIGN law 10). The command line and the workers
call `setup_process` once; library functions take a device and never guess one.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError, printable
from .progress import activity as activity
from .progress import progress as progress

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc malloc.h


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` (CUDA if there is one, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps` (Apple's GPUs) as a torch device, which may be given too.

    Raises:
        ConfigError: the name is none of these, or names a GPU that is not there.
    """
    import torch

    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()) or (kind != "cuda" and index):
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            f"device: mps was requested, but PyTorch {torch.__version__} sees no Apple GPU; use --device cpu, or a build of PyTorch for macOS on Apple silicon"
        )
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise ConfigError(
            f"device: {name} was requested, but PyTorch {torch.__version__} sees {count} CUDA device(s); "
            "use --device cpu, or install a CUDA build of PyTorch and check nvidia-smi"
        )
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; elsewhere it is emulated, and slower than float32."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def has_native_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 on the device.

    PyTorch calls it supported on every x86 CPU with AVX-512, but without AVX512_BF16 or AMX it converts to float32 and back: the decoder
    took 1.4 times as long.
    """
    import platform

    import torch

    tests = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64") or None in tests:
        return has_bf16(device)
    return has_bf16(device) and any(test() for test in tests if test is not None)


def l2_bytes(device: torch.device) -> int:
    """The L2 cache of a GPU."""
    import torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)


_WAITING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "1"}
"""A waiting thread of GNU's OpenMP turns 3,000 times (some microseconds), one of Intel's for 1 ms, before it sleeps. To sleep at once cost a
fifth of the training speed on a quiet machine; 3,000 turns cost nothing there, and beside busy programs are as good as none."""


def wait_without_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let OpenMP threads that wait go to sleep soon, instead of turning in a loop for long. Must be called before PyTorch is loaded.

    A thread that spins takes its core from the very thread that it waits for as soon as other programs run: beside two busy
    processes, two threads on two cores become ten times slower. Settings of the user's own are left as they are.
    """
    if not any(name in environment for name in ("OMP_WAIT_POLICY", *_WAITING)):
        environment.update(_WAITING)


def choose_threads(cores: int, busy: float | None, usable: int | None = None, quota: float | None = None) -> int:
    """How many compute threads to run. A thread that has to share its core makes all the others wait for it, so only free cores count.

    Args:
        cores: the most that is worth it: the library's own choice, which takes one of the two that a core with hyper-threading shows.
        busy: how many of the usable ones other programs take; None: not known.
        usable: the cores, as the system counts them, that this process may use; None: `cores`.
        quota: cores' worth of time that a container grants; None: no limit.

    Returns:
        1 or more.
    """
    free = float(cores) if busy is None else (usable or cores) - busy
    return max(1, round(min(cores, free, cores if quota is None else math.ceil(quota - 0.01))))


def busy_cores(seconds: float = 0.1) -> float | None:
    """How many of the cores that this process may use are taken by other programs, watched for so long; None where it cannot be seen.

    Linux tells each core's idle time in /proc/stat, in hundredths of a second; what this process takes itself is negligible while it sleeps.
    """
    try:
        before = _idle_times()
        time.sleep(seconds)
        after = _idle_times()
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    spent = [(after[core][0] - before[core][0], after[core][1] - before[core][1]) for core in before if core in after]
    shares = [1 - idle / total for idle, total in spent if total > 0]
    return sum(shares) if shares else None  # a sandbox's counters may all stand still, or be of other cores


def _idle_times() -> dict[int, tuple[int, int]]:
    """core -> (idle, all) hundredths of a second since the start, of the cores that this process may use."""
    mine = os.sched_getaffinity(0)
    times: dict[int, tuple[int, int]] = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
            numbers = [int(count) for count in counts[:8]]  # user nice system idle iowait irq softirq steal
            times[int(name[3:])] = (numbers[3] + numbers[4], sum(numbers))
    return times


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that Linux control groups grant this process (`docker run --cpus 2`); None: no limit, or none to be seen.

    Args:
        root: where control groups are mounted.
        own: names the groups of this process, a line `ID:CONTROLLERS:/PATH` each.
    """
    quotas: list[float] = []
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = root if not controllers else root / "cpu"
            group = top / path.lstrip("/")
            for folder in [group, *group.parents]:  # each level limits those below it
                if folder == top or top in folder.parents:
                    quotas += _quotas_in(folder)
    return min(quotas, default=None)


def _quotas_in(folder: Path) -> list[float]:
    """The limit that one control group sets, of version 2 (`cpu.max`) or 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int(word) for name in names for word in (folder / name).read_text().split())  # `max`: no limit
            if quota > 0 and period > 0:
                return [quota / period]
    return []


def usable_cores() -> int:
    """The cores, as the system counts them, that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def setup_process(threads: int | None = None, keep_memory: bool = True) -> None:
    """Settings of the whole process: the number of compute threads, and an allocator that keeps big blocks.

    Args:
        threads: CPU threads of PyTorch and OpenCV; None: `OMP_NUM_THREADS` where it is set, else as many as there are free cores now.
        keep_memory: tell glibc not to return big blocks to the system after each operation. Without it the mask decoder
            spends half of its time on page faults. Other C libraries have no such setting and are left alone.
    """
    if keep_memory:
        _raise_malloc_thresholds()
    import cv2
    import torch

    if threads is None and not os.environ.get("OMP_NUM_THREADS"):
        cores = torch.get_num_threads()  # the library's choice: one thread per core that this process may use
        threads = choose_threads(cores, busy_cores() if cores > 1 else None, usable=usable_cores(), quota=cpu_quota())
        if threads < cores:
            log.info("%d of %d cores are free: %d compute threads (--threads N decides otherwise)", threads, cores, threads)
    if threads is not None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def compute_threads(threads: int) -> Iterator[None]:
    """Inside, PyTorch and OpenCV compute with so many CPU threads; afterwards with as many as before. ConfigError for less than one."""
    import cv2
    import torch

    if threads < 1:
        raise ConfigError(f"threads: expected at least 1, got {threads}")
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _raise_malloc_thresholds() -> bool:
    """True if glibc took both thresholds (older releases refuse more than 32 MB, other C libraries have no mallopt)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    if not done:
        log.debug("this C library refused the malloc thresholds; mask generation on the CPU will be slower")
    return done


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt in the main thread, like Ctrl-C. In another thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def cache_dir() -> Path:
    """Where downloads and converted weights are kept: `SAMDIFF_CACHE`, else the user's cache folder (not created here).

    Raises:
        ConfigError: `SAMDIFF_CACHE` names the home folder of nobody.
    """
    import platformdirs

    return user_path(os.environ.get("SAMDIFF_CACHE") or platformdirs.user_cache_dir("samdiff"), "SAMDIFF_CACHE")


def user_path(path: str | Path, what: str = "") -> Path:
    """A path as its user means it: `~` and `~NAME` at its start are home folders, as in a shell.

    Args:
        path: a file or folder.
        what: the option or variable that it comes from, for the message.

    Raises:
        ConfigError: there is no such user, or no home folder, or the name holds a NUL, which no file can have.
    """
    if "\0" in os.fspath(path):
        raise ConfigError(f"{what + ': ' * bool(what)}{printable(path)}: cannot be a file or folder here: its name holds a NUL")
    if not os.fspath(path).startswith("~"):  # `./~x` stays: a Path would have lost its `./`
        return Path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        name = printable(Path(path).parts[0])
        raise ConfigError(
            f"{what + ': ' * bool(what)}{printable(path)}: expected a folder, got {name}, and there is no such user's home folder; write the whole path"
        ) from error


@contextlib.contextmanager
def brief_downloads(seconds: float = 10) -> Iterator[None]:
    """Inside, downloads by other libraries give up soon where there is no network.

    Sockets get a timeout. Hugging Face's library, which would try each file for most of a minute, is told that it is offline if its hub
    cannot be reached; it reads that on its first import only.
    """
    import http.client
    import socket
    import urllib.error
    import urllib.request  # here, for they take a tenth of the time of `samdiff --help`

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        if "HF_HUB_OFFLINE" not in os.environ:
            try:
                hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
                urllib.request.urlopen(urllib.request.Request(hub, method="HEAD")).close()
            except urllib.error.HTTPError:
                pass  # it answers
            except (OSError, ValueError, http.client.HTTPException) as error:  # no network, or an answer that is none
                log.info("no way to Hugging Face (%s): only what is in its cache can be had", printable(error))
                os.environ["HF_HUB_OFFLINE"] = "1"
        yield
    finally:
        socket.setdefaulttimeout(before)
