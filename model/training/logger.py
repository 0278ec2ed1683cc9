"""Logs metrics to `log.jsonl`, and on request to TensorBoard, with sample images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ConfigError
from ...pipeline.storage.atomic import unwritable
from ..checkpoints.plain import read_object

LOG_FILE = "log.jsonl"
_TAIL = 1 << 16  # bytes; a line has a few hundred
_BEGINNING = b'{"stage": '  # of every line


def repair_log(file: Path) -> list[str]:
    """Remove an incomplete last line from a log, which a run leaves that was killed while it wrote.

    Returns:
        Lines to report to the user.

    Raises:
        ConfigError: the file is not a log of a run; it is not changed.
        StoreError: it cannot be written.
    """
    if not file.exists():
        return []
    if not file.is_file():
        raise ConfigError(f"{file}: expected a run's log, got a folder, a pipe or a device; move it away")
    try:
        with open(file, "rb+") as log:
            size = log.seek(0, 2)
            log.seek(-min(size, _TAIL), 2)
            *before, last = log.read().rsplit(b"\n", 2)
            if not last:
                if before and before[-1] and not before[-1].startswith(_BEGINNING):
                    raise ConfigError(f"{file}: does not end in a line of a run's log; move it away")
                return []
            if len(last) == _TAIL or not (last.startswith(_BEGINNING) or _BEGINNING.startswith(last)):
                raise ConfigError(f"{file}: does not end in a line of a run's log; move it away")
            if _whole(last):
                log.write(b"\n")
                return []
            log.truncate(size - len(last))
            return [f"{file}: removed an incomplete last line, from when the run was killed"]
    except OSError as error:
        raise unwritable(file, error) from error


def _whole(line: bytes) -> bool:
    try:
        read_object(line)
    except ValueError:
        return False
    return True


class Tracker:
    """Writes the log of a run."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        """
        Raises:
            ConfigError: TensorBoard is requested but not installed.
        """
        self.file = folder / LOG_FILE
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "train.tensorboard: the package tensorboard is not installed; pip install 'samdiff[tensorboard]'"
                ) from error
            try:
                self._board = SummaryWriter(str(folder / "tensorboard"))
            except OSError as error:
                raise unwritable(folder / "tensorboard", error) from error

    def metrics(self, line: dict[str, object]) -> None:
        """Write one line. TensorBoard gets its numbers as STAGE/METRIC, or STAGE/SET/METRIC for validation."""
        with open(self.file, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            prefix = "/".join(str(line[key]) for key in ("stage", "validation") if key in line)
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(f"{prefix}/{name}", value, line["step"])

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image uint8 [H, W, 3], for TensorBoard only."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")
            self._board.flush()
