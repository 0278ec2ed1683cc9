"""Files of a segmenter's weights: read safely, whatever they are wrapped in, recognised, and copied into a model."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import WeightsError, printable

_WRAPPERS = ("model", "model_state")
"""Keys under which a file may hold its tensors: SAM 2's files and MobileSAM's, and micro-sam's training files."""
_PREFIX = "sam."
"""Of all names in the files of fine-tuned models, such as micro-sam's."""
_IMAGE = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.", "no_mem_embed")
_VIDEO = (
    *("memory_attention.", "memory_encoder.", "maskmem_tpos_enc", "no_mem_pos_enc", "mask_downsample."),
    *("obj_ptr_proj.", "obj_ptr_tpos_proj.", "no_obj_ptr", "no_obj_embed_spatial"),
)
"""Parts of SAM 2 that segment images, and those for videos only."""
_VIT = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_HIERA = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
"""Channels and blocks of the encoder -> size."""


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
    return _unwrapped(state, path)


def _unwrapped(state: object, path: Path) -> dict[str, Tensor]:
    """The named tensors of what a file holds, without the wrapping and the prefix that training programs add."""
    if isinstance(state, Mapping):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{path}: expected named tensors, or a dict that holds them as {' or '.join(_WRAPPERS)}; found {_listed(state)}"
        )
    if not all(isinstance(name, str) for name in state):
        raise WeightsError(f"{path}: expected tensors with names, got other keys; take the published file")
    if all(name.startswith(_PREFIX) for name in state):
        return {name.removeprefix(_PREFIX): value for name, value in state.items()}
    return dict(state)


def _listed(found: object) -> str:
    """What a file holds, for an error: its first keys and their types."""
    if not isinstance(found, Mapping):
        return f"one {type(found).__name__}"
    if not found:
        return "nothing"
    shown = [f"{printable(key)[:60]} ({_kind(value)})" for key, value in list(found.items())[:8]]
    return ", ".join(shown) + (f" and {len(found) - 8} more" if len(found) > 8 else "")


def _kind(value: object) -> str:
    """A type in words: `tensor 2 x 3`, `dict of 5`, `int`."""
    if isinstance(value, Tensor):
        return f"tensor {' x '.join(map(str, value.shape))}".rstrip()
    return f"dict of {len(value)}" if isinstance(value, Mapping) else type(value).__name__


def image_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAM 2's tensors without those for videos, which are dropped by name; unknown ones stay, so that `load_state` reports them."""
    return {name: value for name, value in state.items() if name.startswith(_IMAGE) or not name.startswith(_VIDEO)}


def recognised(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Names of the segmenters whose weights these can be; empty: unknown ones. SAM 2.0 and 2.1 differ in their video parts only."""
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return ("mobile_sam",)
    patches = state.get("image_encoder.patch_embed.proj.weight")
    if patches is not None and patches.ndim == 4:
        name = _VIT.get(patches.shape[0])
        return () if name is None else (name,)
    patches = state.get("image_encoder.trunk.patch_embed.proj.weight")
    if patches is None or patches.ndim != 4:
        return ()
    blocks = {name.split(".")[3] for name in state if name.startswith("image_encoder.trunk.blocks.")}
    size = _HIERA.get((patches.shape[0], len(blocks)))
    if size is None:
        return ()
    both = (f"sam2.1_{size}", f"sam2_{size}")
    if "no_obj_embed_spatial" in state or "obj_ptr_tpos_proj.weight" in state:
        return both[:1]
    return both[1:] if "maskmem_tpos_enc" in state else both


def check_architecture(state: Mapping[str, Tensor], name: str, where: str) -> None:
    """Raise WeightsError if these are recognised as the weights of another segmenter."""
    found = recognised(state)
    if found and name not in found:
        raise WeightsError(
            f"{where}: expected the weights of {name}, got those of {' or '.join(found)}; give --sam {found[0]}, or another file"
        )


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


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a segmenter; every name and shape must fit and every value be finite.

    Raises:
        WeightsError: it is the checkpoint of another architecture, or damaged.
    """
    own = {name: value for name, value in image_part(model.state_dict()).items() if name not in ("pixel_mean", "pixel_std")}
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
