"""Short training runs on a device, and what their logs say."""

import json
from pathlib import Path

import numpy as np
import torch

from samdiff import open_store
from samdiff.model.config import load_config
from samdiff.model.training.run import train

from .models import SMALL_RUN

TWENTY = (
    *SMALL_RUN,
    "train.rrdb_steps=20",
    "train.steps=20",
    "train.log_every=1",
    "train.checkpoint_every=7",
    "validate.every=0",
)
"""20 steps of each stage, each in the log."""


def run(store: Path, out: Path, device: torch.device, *more: str) -> Path:
    """The model of a run of `TWENTY` with these settings changed."""
    return train([open_store(store)], out, load_config("tiny", sets=[*TWENTY, *more]), device)


def log_lines(out: Path) -> list[dict]:
    """The lines of a run's log that hold a loss."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def losses(out: Path) -> np.ndarray:
    """float64 [steps]: losses of both stages, step by step."""
    return np.array([line["loss"] for line in log_lines(out)])
