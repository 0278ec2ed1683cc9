"""The two networks as ONNX files with dynamic sizes, for sampling without PyTorch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...pipeline.export.new_target import new_files
from ...pipeline.storage.outputs import claim_outputs
from ..inference.upscaler import SuperResolver
from ..networks.rrdb import RRDB, condition

OPSET = 18
FILES = ("rrdb.onnx", "denoiser.onnx", "schedule.json")


class Encoder(nn.Module):
    """LR [B, 3, h, w] in [-1, 1] -> the RRDB's image [B, 3, s h, s w] and the denoiser's condition [B, K, h, w]."""

    def __init__(self, rrdb: RRDB) -> None:
        super().__init__()
        self.rrdb = rrdb

    def forward(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Both outputs from one forward pass."""
        maps = self.rrdb.features(lr)
        return self.rrdb.image(maps[-1], lr), condition(maps)


def export_onnx(model: SuperResolver, folder: Path, overwrite: bool = False, inputs: Iterable[Path] = ()) -> list[Path]:
    """Write rrdb.onnx, denoiser.onnx and schedule.json (scale, process, base and the numbers that sampling needs) into a folder.

    The files appear only when all of them are complete.

    Args:
        model: what to export.
        folder: created if missing; its other files are not changed.
        overwrite: replace files of these names.
        inputs: files that are never replaced, such as the checkpoint.

    Raises:
        ConfigError: onnx or onnxscript is not installed, a file exists or is an input, or the model has a scale of the noise.
        BusyError: another process exports into this folder.
        StoreError: they cannot be written.
    """
    if model.config.diffusion.scale_from != "none":
        raise ConfigError(
            f"export: {model.name} was trained with diffusion.scale_from {model.config.diffusion.scale_from!r}, "
            "which these files cannot hold; export a model without it"
        )
    claim_outputs([("--out", folder / name) for name in FILES], inputs, overwrite)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"export: needs onnx and onnxscript ({error}); pip install 'samdiff[export]'") from error
    with new_files(folder, FILES, "samdiff export-model", overwrite=overwrite) as new:
        _write(model, [new / name for name in FILES])
    return [folder / name for name in FILES]


def _write(model: SuperResolver, files: list[Path]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    device = model.device
    side = max(8, 2 * model.unet.multiple)
    lr = torch.zeros(2, model.samples.count, side, side + 4, device=device)
    encoder = Encoder(model.rrdb).eval()
    with torch.no_grad():
        given = encoder(lr)[1]
    batch, high, wide = (torch.export.Dim(name, min=1) for name in ("batch", "height_lr", "width_lr"))
    torch.onnx.export(
        encoder, (lr,), files[0], dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
        input_names=["lr"], output_names=["picture", "condition"], dynamic_shapes={"lr": {0: batch, 2: high, 3: wide}},
    )  # fmt: skip
    state = torch.zeros(2, model.samples.count, *(edge * model.scale for edge in lr.shape[2:]), device=device)
    torch.onnx.export(
        model.unet, (state, torch.tensor([3, 3], device=device), given), files[1], dynamo=True, opset_version=OPSET, verbose=False,
        external_data=False, input_names=["x", "t", "condition"], output_names=["prediction"],
        dynamic_shapes={"x": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},
                        "t": {0: torch.export.Dim.AUTO},
                        "condition": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}},
    )  # fmt: skip
    diffusion = model.config.diffusion
    facts = {
        "scale": model.scale,
        "multiple": model.unet.multiple,
        "process": diffusion.process,
        "base": diffusion.base,
        "rescale": diffusion.rescale,
        "flow_sigma": diffusion.flow_sigma,
        "flow_prediction": diffusion.flow_prediction,
        "modulation": model.modulation.name,
        "lr_levels": diffusion.lr_levels,
        "alpha_bars": model.modulation.schedule.alpha_bars.tolist(),
        "first_time": model.modulation.schedule.t_start,
        **model.samples.attributes(),
    }
    files[2].write_text(json.dumps(facts), encoding="utf-8")
