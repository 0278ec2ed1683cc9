"""Segmenters by name: `vit_h`, `vit_l`, `vit_b` (segment-anything's), `mobile_sam` (its prompt encoder and decoder behind TinyViT)."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from ...errors import ConfigError, WeightsError, printable
from ...progress import activity
from .names import SEGMENTERS
from .tinyvit import TinyViT
from .weights import WeightsFile, find_weights


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A loaded segmenter, in eval mode, without gradients."""

    name: str
    model: Sam
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
        WeightsError: no weights, a damaged file, one that changed while it was loaded, the checkpoint of another architecture, or
            values that are not finite.
    """
    if name not in SEGMENTERS:
        raise ConfigError(f"segmenter: expected one of {', '.join(SEGMENTERS)}, got {name!r}")
    record = find_weights(name, file=weights, source=source)
    with activity(f"loading the weights of {name} from {record.path}"):
        model = build_segmenter(name)
        load_state(model, read_state(record.path), f"{record.path} as {name}")
        record.check_unchanged()  # the store records the hash of what was loaded
        return Segmenter(name, model.to(device), record)


def build_segmenter(name: str) -> Sam:
    """The architecture with random weights, in eval mode, without gradients."""
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


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; pickles are read with `weights_only=True`.

    Raises:
        WeightsError: the file cannot be read, is truncated, or has anything but named tensors.
    """
    _check_packing(path)
    try:
        state: object = (
            load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors or is no checkpoint; take the published file"
        ) from error
    except Exception as error:  # torch raises exceptions of many types for truncated files and other formats
        reason = printable(f"{type(error).__name__}: {error}")[:300]
        raise WeightsError(f"{path}: not a readable checkpoint ({reason}); download it again") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: expected a state dict of named tensors, got {type(state).__name__}")
    if not all(isinstance(name, str) for name in state):
        raise WeightsError(f"{path}: expected tensors with names, got other keys; take the published file")
    return dict(state)


def _check_packing(path: Path) -> None:
    """PyTorch's archives hold their members as they are; packed ones would take more memory than the file has bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (
        OSError,
        ValueError,
        NotImplementedError,
        zipfile.BadZipFile,
    ):  # another format, or no file: told where it is loaded
        return
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(member.file_size for member in members) > path.stat().st_size
    ):
        raise WeightsError(f"{path}: refused, it holds packed or overlapping members; take the published file")


def load_state(model: Sam, state: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a segmenter; every name and shape must fit and every value be finite.

    Raises:
        WeightsError: it is the checkpoint of another architecture, or damaged.
    """
    own = {name: value for name, value in model.state_dict().items() if name not in ("pixel_mean", "pixel_std")}
    given = {name: value for name, value in state.items() if name not in ("pixel_mean", "pixel_std")}
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    misshaped = sorted(name for name in own.keys() & given.keys() if own[name].shape != given[name].shape)
    if missing or extra or misshaped:
        found = (("missing", missing), ("unexpected", extra), ("of another shape", misshaped))
        detail = ", ".join(
            f"{len(names)} tensors {what} (such as {printable(names[0])[:100]})" for what, names in found if names
        )
        raise WeightsError(f"{where}: the checkpoint of another architecture: {detail}; check --sam")
    strange = [name for name, value in given.items() if not _is_plain(value, own[name].is_floating_point())]
    if strange:
        raise WeightsError(
            f"{where}: {len(strange)} tensors are not plain numbers of 32 or 16 bits (such as {strange[0]}); take the published file"
        )
    broken = [name for name, value in given.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(
            f"{where}: {len(broken)} tensors hold NaN or infinity (such as {broken[0]}); download the file again"
        )
    model.load_state_dict(given, strict=False)


def _is_plain(value: Tensor, floating: bool) -> bool:
    """A dense tensor in memory, of a type that weights have, and with as many numbers as it claims."""
    return (
        value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in ((torch.float32, torch.float16, torch.bfloat16) if floating else (torch.int64,))
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )
