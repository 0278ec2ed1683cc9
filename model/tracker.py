"""Where figures go: every one to `log.jsonl`; to TensorBoard, with sample pictures, if it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError


class Tracker:
    """The log of a run's folder."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        """
        Raises:
            ConfigError: TensorBoard is asked for and not installed.
        """
        self.file = folder / "log.jsonl"
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ConfigError(
                    "train.tensorboard: the package tensorboard is not installed; pip install 'samdiff[tensorboard]'"
                ) from error
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def figures(self, line: dict[str, Any]) -> None:
        """One line; its numbers become curves named STAGE/FIGURE, or STAGE/SET/FIGURE for validation."""
        with open(self.file, "a") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            prefix = "/".join(str(line[key]) for key in ("stage", "validation") if key in line)
            for name, value in line.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(f"{prefix}/{name}", value, line["step"])

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture uint8 [H, W, 3], for TensorBoard only."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")
            self._board.flush()
