"""Segmenters by name: `vit_h`, `vit_l`, `vit_b` (segment-anything's), `mobile_sam` (its parts behind TinyViT), and SAM 2's eight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from ...errors import ConfigError, missing_package
from ...progress import activity
from .checkpoint import check_architecture, image_part
from .checkpoint import load_state as load_state
from .checkpoint import read_state as read_state
from .names import SAM2, SEGMENTERS
from .tinyvit import TinyViT
from .weights import WeightsFile, find_weights

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A loaded segmenter, in eval mode, without gradients."""

    name: str
    model: Sam | SAM2Base
    weights: WeightsFile


def load_segmenter(name: str, device: torch.device, weights: Path | None = None, source: str = "auto") -> Segmenter:
    """A segmenter with its weights, on a device.

    Args:
        name: one of `SEGMENTERS`.
        device: of the model.
        weights: a file (.pth, .pt or .safetensors); None: see `find_weights`.
        source: where weights may come from.

    Raises:
        ConfigError: an unknown segmenter.
        MissingPackageError: SAM 2 without the package sam2.
        WeightsError: no weights, a damaged file, one that changed while it was loaded, the checkpoint of another architecture, or
            values that are not finite.
    """
    if name not in SEGMENTERS:
        raise ConfigError(f"segmenter: expected one of {', '.join(SEGMENTERS)}, got {name!r}")
    check_installed(name)  # before a download
    record = find_weights(name, file=weights, source=source)
    with activity(f"loading the weights of {name} from {record.path}"):
        model = build_segmenter(name)
        state, where = read_state(record.path), f"{record.path} as {name}"
        check_architecture(state, name, where)
        load_state(model, image_part(state) if name in SAM2 else state, where)
        record.check_unchanged()  # the store records the hash of what was loaded
        return Segmenter(name, model.to(device), record)


def check_installed(name: str) -> None:
    """Raise MissingPackageError if a segmenter needs a package that is not installed. Importing it is left for later."""
    from importlib.util import find_spec

    try:
        missing = name in SAM2 and find_spec("sam2") is None
    except ImportError:  # a finder that refuses
        missing = True
    if missing:
        raise missing_package(ImportError(name="sam2"), extra="sam2", what=f"--sam {name}")


def build_segmenter(name: str) -> Sam | SAM2Base:
    """The architecture with random weights, in eval mode, without gradients."""
    if name in SAM2:
        from ..point_models.sam2_build import SIZES, build_sam2

        return build_sam2(SIZES[name.partition("_")[2]])
    model = _build_mobile_sam() if name == "mobile_sam" else sam_model_registry[name](checkpoint=None)
    return model.eval().requires_grad_(False)


def _build_mobile_sam() -> Sam:
    """segment-anything's own prompt encoder and decoder in their published sizes (build_sam.py), behind TinyViT."""
    prompt = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(
        transformer_dim=256, transformer=transformer, num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=256
    )
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    return Sam(TinyViT(), prompt, decoder, pixel_mean=mean, pixel_std=std)
