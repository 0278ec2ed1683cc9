"""The size of an image at the input of SAM. Pure, without PyTorch."""

from __future__ import annotations


def inside(height: int, width: int, n_model: int) -> tuple[int, int]:
    """Size of an image after segment-anything's resizing (`ResizeLongestSide.get_preprocess_shape`), at least 1 pixel."""
    scale = n_model * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
