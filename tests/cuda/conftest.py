"""Tests for a GPU: `make gpu-test`. Skipped with the reason where there is none; SAMDIFF_TEST_DEVICE=cpu rehearses them on a CPU."""

import os
from pathlib import Path

import pytest
import torch

from ..helpers.stores import make_store

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic matrix products; read when CUDA is first used


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


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 small tiles."""
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    make_store(path, n=40)
    return path
