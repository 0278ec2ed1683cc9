"""Tests for a GPU: `make gpu-test`. Skipped with the reason where there is none; SAMDIFF_TEST_DEVICE=cpu rehearses them on a CPU."""

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is marked `cuda`."""
    for item in items:
        if "cuda" in item.path.parts:
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the device of the rehearsal."""
    named = torch.device(os.environ.get("SAMDIFF_TEST_DEVICE", "cuda"))
    if named.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU: torch.cuda.is_available() is false")
    return named


@pytest.fixture(autouse=True)
def full_float32(device: torch.device) -> None:
    """No TF32, so that the two devices can be compared."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
