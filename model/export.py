"""The two networks as ONNX files with dynamic sizes, so that a picture can be sampled without PyTorch."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .infer import SuperResolver
from .outputs import claim_outputs, write_output
from .rrdb import RRDB, condition

OPSET = 18
_FILES = ("rrdb.onnx", "denoiser.onnx", "schedule.json")


class Encoder(nn.Module):
    """LR [B, 3, h, w] in [-1, 1] -> the RRDB's picture [B, 3, s h, s w] and the denoiser's condition [B, K, h, w]."""

    def __init__(self, rrdb: RRDB) -> None:
        super().__init__()
        self.rrdb = rrdb

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one pass."""
        maps = self.rrdb.features(lr)
        return self.rrdb.picture(maps[-1]), condition(maps)


def export_onnx(model: SuperResolver, folder: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> list[Path]:
    """Write rrdb.onnx, denoiser.onnx and schedule.json (scale, modulation, alpha_bars, first_time) into a folder.

    Args:
        model: what is exported.
        folder: where to; made if need be.
        overwrite: whether files that are there already are replaced.
        inputs: files that are never replaced, such as the checkpoint's.

    Raises:
        ConfigError: onnx or onnxscript is not installed, or a file may not be written.
        SamdiffError: a file cannot be written.
    """
    files = [folder / name for name in _FILES]
    claim_outputs([("--out", file) for file in files], inputs, overwrite)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export: needs onnx and onnxscript ({error}); pip install 'samdiff[export]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(
        prefix="samdiff-"
    ) as scratch:  # PyTorch writes in place: a run that is killed leaves half a file
        made = [*_networks(model, Path(scratch)), json.dumps(_facts(model)).encode()]
    for file, data in zip(files, made, strict=True):
        write_output(file, data, overwrite)
    return files


def _networks(model: SuperResolver, scratch: Path) -> list[bytes]:
    """The RRDB's and the denoiser's ONNX files."""
    device = model.device
    side = max(8, 2 * model.unet.multiple)
    lr = torch.zeros(2, 3, side, side + 4, device=device)
    encoder = Encoder(model.rrdb).eval()
    with torch.no_grad():
        given = encoder(lr)[1]
    batch, high, wide = (torch.export.Dim(name, min=1) for name in ("batch", "height_lr", "width_lr"))
    files = [scratch / name for name in _FILES[:2]]
    torch.onnx.export(
        encoder, (lr,), files[0], dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
        input_names=["lr"], output_names=["picture", "condition"], dynamic_shapes={"lr": {0: batch, 2: high, 3: wide}},
    )  # fmt: skip
    state = torch.zeros(2, 3, *(edge * model.scale for edge in lr.shape[2:]), device=device)
    torch.onnx.export(
        model.unet, (state, torch.tensor([3, 3], device=device), given), files[1], dynamo=True, opset_version=OPSET, verbose=False,
        external_data=False, input_names=["x", "t", "condition"], output_names=["prediction"],
        dynamic_shapes={"x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},
                        "t": {0: torch.export.Dim.AUTO},
                        "condition": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}},
    )  # fmt: skip
    return [file.read_bytes() for file in files]


def _facts(model: SuperResolver) -> dict[str, object]:
    """What a sampler of its own needs to know beside the networks."""
    return {
        "scale": model.scale,
        "multiple": model.unet.multiple,
        "modulation": model.modulation.name,
        "lr_levels": model.config.diffusion.lr_levels,
        "alpha_bars": model.modulation.schedule.alpha_bars.tolist(),
        "first_time": model.modulation.schedule.first_time,
    }
