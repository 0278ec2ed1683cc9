"""What belongs to the process, not to a library call: device, threads, allocator, progress bars, the cache folder.

This is the only place that looks for a GPU or changes process-wide settings (DESIGN law 10). The command line and the workers
call `setup_process` once; library functions take a device and never guess one.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import logging
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, printable

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc malloc.h


def pick_device(name: str = "auto") -> torch.device:
    """`auto` (CUDA if there is one, else the CPU), `cpu`, `cuda` or `cuda:N` as a torch device.

    Raises:
        ConfigError: the name is none of these, or names a GPU that is not there.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and int(index or 0) >= count:
        raise ConfigError(
            f"device: {name} was asked for, but PyTorch {torch.__version__} sees {count} CUDA device(s); "
            "use --device cpu, or install a CUDA build of PyTorch and check nvidia-smi"
        )
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; elsewhere it is emulated, and slower than float32."""
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def l2_bytes(device: torch.device) -> int:
    """The L2 cache of a GPU."""
    import torch

    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def setup_process(threads: int | None = None, keep_memory: bool = True) -> None:
    """Settings of the whole process: the number of compute threads, and an allocator that keeps big blocks.

    Args:
        threads: CPU threads of PyTorch and OpenCV; None leaves the library's choice.
        keep_memory: tell glibc not to return big blocks to the system after each operation. Without it the mask decoder
            spends half of its time on page faults. Other C libraries have no such setting and are left alone.
    """
    if keep_memory:
        _raise_malloc_thresholds()
    if threads is not None:
        import cv2
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


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


def cache_dir() -> Path:
    """Where downloads and converted weights are kept: `SAMDIFF_CACHE`, else the user's cache folder (not created here)."""
    import platformdirs

    return Path(os.environ.get("SAMDIFF_CACHE") or platformdirs.user_cache_dir("samdiff")).expanduser()


@contextlib.contextmanager
def brief_downloads(seconds: float = 10) -> Iterator[None]:
    """Inside, downloads by other libraries give up soon where there is no network.

    Sockets get a timeout. Hugging Face's library, which would try each file for most of a minute, is told that it is offline if its hub
    cannot be reached; it reads that on its first import only.
    """
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


def progress(items: Iterable[Any] | None = None, *, desc: str, total: int | None = None, unit: str = "it", **more: Any) -> tqdm:
    """A progress bar on stderr, silent when stderr is not a terminal (or when `SAMDIFF_QUIET` is set by `-q`)."""
    from tqdm import tqdm

    hidden = True if os.environ.get("SAMDIFF_QUIET") else None
    return tqdm(items, desc=desc, total=total, unit=unit, disable=hidden, dynamic_ncols=True, **more)
