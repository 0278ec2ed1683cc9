"""Images of callers of the Python API: PIL images, arrays [H, W, C], tensors [C, H, W] or [H, W, C] and batches; and results in that form."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, TypeVar, Union

import numpy as np
from PIL import Image

from ...errors import ImageError

if TYPE_CHECKING:
    import torch

ImageLike = Union[str, Path, Image.Image, np.ndarray, "torch.Tensor"]
"""A file, a PIL image, an array [H, W] or [H, W, C], or a tensor [H, W], [C, H, W], [H, W, C] or a batch of them."""
ImageKind = TypeVar("ImageKind", np.ndarray, Image.Image, "torch.Tensor")
_BANDS = range(1, 5)


def is_tensor(image: object) -> TypeGuard[torch.Tensor]:
    """Whether it is a PyTorch tensor; does not import PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def layout_hint(shape: tuple[int, ...]) -> str:
    """A hint for an array whose shape is not [H, W] or [H, W, C]: probably channels first, or a batch; empty if neither."""
    if len(shape) == 3 and shape[0] in _BANDS and shape[2] not in _BANDS:
        return f"; {list(shape)} looks like channels first [C, H, W]: pass image.transpose(1, 2, 0)"
    if len(shape) == 4:
        return "; this looks like a batch: pass its images one by one, or a torch tensor"
    return ""


@dataclass(frozen=True)
class TensorLayout:
    """Layout, dtype and device of an input tensor, which the result gets too."""

    dtype: torch.dtype
    device: torch.device
    batch: bool
    """Whether it has a batch axis."""
    channels_first: bool
    """[C, H, W] rather than [H, W, C]."""

    def restore(self, images: list[np.ndarray]) -> torch.Tensor:
        """Arrays [H, W] or [H, W, C] of equal shape as a tensor of this layout, dtype and device."""
        import torch

        whole = torch.from_numpy(np.stack(images) if self.batch else images[0])
        if self.channels_first:
            whole = whole.movedim(-1, -3).contiguous()
        return whole.to(self.device, self.dtype)


def split_tensor(images: torch.Tensor) -> tuple[list[np.ndarray], TensorLayout]:
    """The images of a tensor as arrays on the CPU, and its layout.

    An ambiguous shape, such as [3, 20, 4], is channels first, as is usual in PyTorch.

    Args:
        images: [H, W], [C, H, W], [H, W, C], [B, C, H, W] or [B, H, W, C] with 1 to 4 channels; uint8, uint16 or floats in 0..1.

    Returns:
        arrays [H, W] or [H, W, C], one per image; half-precision floats as float32.

    Raises:
        ImageError: another shape or dtype, or an empty tensor.
    """
    import torch

    shape = tuple(images.shape)
    known = (torch.uint8, torch.uint16, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    first, last = images.ndim in (3, 4) and shape[-3] in _BANDS, images.ndim in (3, 4) and shape[-1] in _BANDS
    if images.dtype not in known or not (images.ndim == 2 or first or last) or 0 in shape:
        raise ImageError(
            "expected a tensor [H, W], [C, H, W], [H, W, C] or a batch [B, …] with 1 to 4 channels, uint8, uint16 or floats of 0 to 1, "
            f"got {str(images.dtype).removeprefix('torch.')} {list(shape)}"
        )
    layout = TensorLayout(images.dtype, images.device, batch=images.ndim == 4, channels_first=first)
    plain = images.detach().cpu()
    if plain.dtype in (torch.float16, torch.bfloat16):
        plain = plain.float()
    if first:
        plain = plain.movedim(-3, -1)
    return [one.contiguous().numpy() for one in (plain if layout.batch else [plain])], layout


def rgb_pixels(image: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    """One image as uint8 [H, W, 3] RGB, the input of segmenters. Transparent pixels are composited over white.

    Raises:
        ImageError: an array or a tensor that is not uint8 with 3 channels, a batch, or a PIL image of more than 8 bits.
    """
    if isinstance(image, Image.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise ImageError(f"expected an image of 8 bits, got a PIL image of mode {image.mode}; scale it to 8 bits first")
        if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(image.convert("RGB"))
    if is_tensor(image):
        arrays, layout = split_tensor(image)
        if layout.batch:
            raise ImageError(f"expected one image, got a batch {list(image.shape)}; use generate_batch")
        return rgb_pixels(arrays[0])
    if not isinstance(image, np.ndarray):
        raise ImageError(f"masks: expected an image uint8 [H, W, 3] RGB, a PIL image or a tensor, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        got = f"{image.dtype} {list(image.shape)}{layout_hint(image.shape)}"
        raise ImageError(f"masks: expected an image uint8 [H, W, 3] RGB with at least one pixel, got {got}")
    return image
