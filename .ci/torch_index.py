"""Where `make install` takes PyTorch from: prints pip's option for the CPU build, or nothing for the default build.

    python .ci/torch_index.py torch==2.14.1 torchvision==0.29.1

On Linux, the build on PyPI brings several gigabytes of CUDA libraries. Where there is no NVIDIA GPU, the CPU build of the same versions is used, if
PyTorch's index answers within five seconds and lists it for this Python and machine. Otherwise the default build is used. One line on stderr
says which. Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import sys
import threading
import urllib.request
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS = 5.0
"""For all requests together."""
MAX_BYTES = 20_000_000
"""Of one page; PyTorch's have less than 1 MB."""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver or its tool."""
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()


def lists_wheel(page: str, name: str, version: str) -> bool:
    """Whether a page of a simple index (PEP 503) has the CPU build of a version for this Python and machine."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    wheel = rf"{re.escape(name)}-{re.escape(version)}(\+|%2B)cpu-{tag}-{tag}-[\w.]*{re.escape(platform.machine())}\.whl"
    return re.search(wheel, page, re.IGNORECASE) is not None


def missing_wheels(index: str, pins: list[str]) -> list[str]:
    """Those of the requirements `NAME==VERSION` whose CPU build the index does not list.

    Raises:
        OSError: the index does not answer.
    """
    missing = []
    for pin in pins:
        name, _, version = pin.partition("==")
        with urllib.request.urlopen(f"{index.rstrip('/')}/{name}/", timeout=SECONDS) as answer:  # noqa: S310 - the Makefile's https address
            page = answer.read(MAX_BYTES).decode("utf-8", "replace")
        if not lists_wheel(page, name, version):
            missing.append(pin)
    return missing


def reason_against(index: str, pins: list[str], seconds: float) -> str:
    """Why the CPU build cannot be taken from an index; empty if it can. Ends after `seconds`, whatever the index does."""
    result = [f"{index} did not answer within {seconds:g} s"]

    def ask() -> None:
        try:
            missing = missing_wheels(index, pins)
            result[0] = f"{index} does not list {' '.join(missing)} for this Python" if missing else ""
        except Exception as error:  # noqa: BLE001 - whatever an index or a proxy answers, the default build is used and the line says why
            result[0] = f"{index} cannot be used ({type(error).__name__})"

    thread = threading.Thread(target=ask, daemon=True)  # a timeout of urlopen is for each read, not for the whole page
    thread.start()
    thread.join(seconds)
    return result[0]


def main() -> None:
    """Print the option, if any, and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pins", nargs="+", help="NAME==VERSION")
    parser.add_argument("--index", default=INDEX)
    options = parser.parse_args()
    if platform.system() != "Linux":
        return  # there, PyPI has no build with CUDA
    if has_gpu():
        print("PyTorch: the default build, because there is an NVIDIA GPU", file=sys.stderr)
        return
    against = reason_against(options.index, options.pins, SECONDS)
    if against:
        print(f"PyTorch: the default build (several GB): {against}", file=sys.stderr)
    else:
        print(f"PyTorch: the CPU build from {options.index}, because there is no NVIDIA GPU", file=sys.stderr)
        print(f"--extra-index-url {options.index}")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # does not wait for a thread that still waits for the index
