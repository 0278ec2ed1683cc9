"""A small untrained model for tests, saved as training saves it."""

from pathlib import Path

import torch

from samdiff.model.checkpoints.format import Checkpoint, save_checkpoint
from samdiff.model.config import load_config
from samdiff.model.networks.build import build_rrdb, build_student, build_unet

SMALL = (
    "model.width=8",
    "model.multipliers=[1, 2, 2]",
    "model.rrdb_blocks=2",
    "model.rrdb_features=8",
    "model.rrdb_growth=4",
)

SMALL_RUN = (
    "model.width=8",
    "model.multipliers=[1, 2]",
    "model.rrdb_blocks=2",
    "model.rrdb_features=8",
    "model.rrdb_growth=4",
    "train.patch=12",
    "train.batch=4",
    "train.log_every=2",
    "train.checkpoint_every=3",
    "train.lr=1e-3",
)
"""A training run of seconds on the stores of `make_store`, as values of `--set`; the numbers of steps are the test's own."""
FLOW = ("diffusion.modulation=none", "diffusion.base=rrdb", "diffusion.process=flow")
"""Stage two as a flow from the RRDB's image."""


def write_model(path: Path, *sets: str, scale: int = 4) -> Path:
    """A checkpoint of the tiny preset, smaller still; `sets` as in `--set`."""
    torch.manual_seed(0)
    config = load_config("tiny", sets=[*SMALL, *sets], scale=scale)
    parts = {"rrdb": build_rrdb(config), "unet": build_unet(config)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    save_checkpoint(path, Checkpoint("diffusion", tensors, {**config.as_dict(), "stores": [], "rrdb_from": None}))
    return path


def small_rrdb(value: float | None = None) -> Checkpoint:
    """A checkpoint of kind `rrdb` that fits its configuration; every weight is `value` if there is one. Its first weight is not contiguous."""
    torch.manual_seed(0)
    config = load_config("tiny", sets=SMALL)
    tensors = {f"rrdb.{name}": tensor for name, tensor in build_rrdb(config).state_dict().items()}
    if value is not None:
        tensors = {name: torch.full_like(tensor, value) for name, tensor in tensors.items()}
    tensors["rrdb.first.weight"] = tensors["rrdb.first.weight"].contiguous(memory_format=torch.channels_last)
    return Checkpoint("rrdb", tensors, config.as_dict(), {"step": 3})


STUDENT = ("student.width=8", "student.layers=2")


def write_student(path: Path, *sets: str, scale: int = 4) -> Path:
    """A checkpoint of a small student with random weights; `sets` as in `--set`."""
    torch.manual_seed(0)
    config = load_config("student", sets=[*STUDENT, *sets], scale=scale)
    network = build_student(config)
    torch.nn.init.normal_(network.last.weight, std=0.02)
    tensors = {f"student.{name}": value for name, value in network.state_dict().items()}
    save_checkpoint(path, Checkpoint("student", tensors, {**config.as_dict(), "stores": []}))
    return path
