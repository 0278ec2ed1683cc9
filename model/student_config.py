"""Settings of a student, the section [student] of `config.py`. Loads neither NumPy nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import check, setting


@dataclass(frozen=True)
class StudentConfig:
    """A small network of one step, and what it learns from its teacher."""

    layers: int = setting(0, min=0, max=128)
    """Convolutions between the first and the last; 0: the run has no student."""
    width: int = setting(48, min=1, max=4096)
    """Channels of each convolution."""
    teacher_weight: float = setting(1.0, min=0, max=1e6)
    """Weight of the L1 distance to the teacher's image, beside that to HR."""
    teacher_share: float = setting(0.25, min=0, max=1)
    """Fraction of each batch that is compared with the teacher's image; 0: HR only."""
    samples: int = setting(0, min=0, max=1000)
    """The teacher's image: mean of this many samples; 0: the result of its RRDB, which is much faster."""

    def __post_init__(self) -> None:
        check(self)
