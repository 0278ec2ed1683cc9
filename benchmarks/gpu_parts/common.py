"""What all parts share: sizes, clocks, memory, and a place for results that survives a part's end."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

NOMINAL_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 FLOP/s on the makers' data sheets (SXM forms); for other cards only the measured matrix product is a yardstick."""


@dataclass(frozen=True)
class Sizes:
    """How much work a part does: the real sizes, or those of a rehearsal on a CPU."""

    preset: str = "paper"
    batch: int = 64
    patch: int = 160
    rounds: int = 12
    points: int = 32
    long_side: int = 2048
    images: int = 16
    lr_side: int = 256
    most_steps: int = 100
    matrix: int = 8192
    copy_bytes: int = 256 << 20
    cut_encoder: bool = False
    """Keep one block of the large encoders, so that a CPU gets through them."""


SMALL = Sizes(
    preset="tiny",
    batch=2,
    patch=32,
    rounds=2,
    points=4,
    long_side=320,
    images=2,
    lr_side=16,
    most_steps=2,
    matrix=256,
    copy_bytes=1 << 20,
    cut_encoder=True,
)


class Record:
    """The results of one part, written after each value, so that a part that is stopped keeps what it has."""

    def __init__(self, file: Path) -> None:
        self.file, self.values = file, dict[str, object]()

    def __call__(self, name: str, value: object) -> None:
        """Keep one value: anything that JSON can hold."""
        self.values[name] = value
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.values))
        new.replace(self.file)
        print(f"  {name}: {json.dumps(value)[:300]}", flush=True)


@dataclass(frozen=True)
class Bench:
    """What a part is given."""

    device: torch.device
    sizes: Sizes
    images: Path
    """Folder of images for the masks."""
    work: Path
    """A folder for its files; it may hold those of other parts."""
    record: Record

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], rounds: int | None = None, warm: int = 1) -> list[float]:
        """Wall-clock seconds of each round, the device's work included, after `warm` rounds that do not count."""
        times = []
        for _ in range(warm + (rounds or self.sizes.rounds)):
            self.synchronize()
            start = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return times[warm:]

    def median(self, work: Callable[[], object], rounds: int | None = None, warm: int = 1) -> float:
        """The median of `seconds`."""
        return statistics.median(self.seconds(work, rounds, warm=warm))

    def start_memory(self) -> None:
        """Begin to watch the peak of the device's memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gb(self) -> float | None:
        """Peak of the memory that PyTorch allocated since `start_memory`, in GB; None on a CPU."""
        return round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3) if self.device.type == "cuda" else None

    def nominal(self) -> float | None:
        """bf16 FLOP/s on the data sheet of this card; None if it is not in the list."""
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name(self.device)
        return next((value for key, value in NOMINAL_BF16.items() if key in name), None)

    def share_of_peak(self, flops_per_second: float) -> float | None:
        """Of the data sheet's bf16 peak; None if that is not known."""
        nominal = self.nominal()
        return None if nominal is None else round(flops_per_second / nominal, 4)


def set_tf32(on: bool) -> None:
    """Allow or forbid TF32 in matrix products and convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
