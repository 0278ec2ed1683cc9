"""Chromium of the system, driven by playwright."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium(*flags: str) -> Iterator[object]:
    """The browser with these flags; the test is skipped, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make install")
    program = os.environ.get("SAMDIFF_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium: install the package chromium of the system, or give its program in SAMDIFF_CHROMIUM")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    if version.returncode:
        pytest.skip(f"{program} does not start: {(version.stderr or version.stdout).strip()[:200]}")
    with playwright.sync_playwright() as driver:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        shown = driver.chromium.launch(executable_path=program, args=[*root, *flags])
        yield shown
        shown.close()
