"""`samdiff export-model`: exports a model for other runtimes and programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import ConfigError, printable
from ..common import Checkpoint, choose_checkpoint, print_status

if TYPE_CHECKING:
    from ...model.export.manifest import Manifest

_SIDE = 64


def export_model(
    checkpoint: Checkpoint = None,
    to: Annotated[
        str,
        typer.Option(metavar="[onnx|esrgan]", help="onnx, or esrgan: the RRDB's weights for spandrel, chaiNNer and others."),
    ] = "onnx",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="[rrdb|student]",
            show_default="RRDB and denoiser, dynamic sizes",
            help="One network of one step, with static tiles.",
        ),
    ] = None,
    static: Annotated[
        int | None, typer.Option(metavar="N", show_default=f"{_SIDE}", help="For --only: side of a tile in input pixels.")
    ] = None,
    precision: Annotated[str, typer.Option(metavar="[fp32|fp16|int8]", help="For --only: precision of the network.")] = "fp32",
    calibrate: Annotated[
        Path | None,
        typer.Option(help="For --only: a store or a folder of HR images, to calibrate int8 and to measure the drop in PSNR."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", show_default="onnx or esrgan", help="Output folder; or, for one network, its file."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that exist.")] = False,
) -> None:
    """Export a model for other programs.

    Without --only, RRDB and denoiser as ONNX files with dynamic sizes.
    """
    from ...model.checkpoints.format import SHIPPED_MODELS, SHIPPED_STUDENT
    from ...model.checkpoints.publish import checkpoint_files

    if to not in ("onnx", "esrgan"):
        raise ConfigError(f"--to: expected onnx or esrgan, got {to!r}")
    given = {"--static": static, "--calibrate": calibrate, "--precision": None if precision == "fp32" else precision}
    used = [name for name, value in given.items() if value is not None]
    if only is None and used and to == "onnx":
        raise ConfigError(f"{used[0]}: only together with --only; give --only rrdb or --only student")
    if to == "esrgan" and (used or only not in (None, "rrdb")):
        raise ConfigError(f"--to esrgan: exports the RRDB's weights; leave {used[0] if used else '--only'} out")
    if checkpoint is None and only == "student":
        path = SHIPPED_MODELS[SHIPPED_STUDENT]
    else:
        path = choose_checkpoint(checkpoint)
    target = out or Path(to)
    if to == "esrgan" or only is not None:
        _one_network(
            path,
            target,
            to_esrgan=to == "esrgan",
            only=only or "rrdb",
            side=static or _SIDE,
            precision=precision,
            calibrate=calibrate,
            overwrite=overwrite,
        )
        return
    from ...model.export.onnx_export import export_onnx
    from ...model.inference.upscaler import load_diffusion

    for file in export_onnx(load_diffusion(path, "cpu"), target, overwrite, inputs=checkpoint_files(path)):
        print_status(f"{file}  {file.stat().st_size} bytes")


def _one_network(
    path: Path, target: Path, *, to_esrgan: bool, only: str, side: int, precision: str, calibrate: Path | None, overwrite: bool
) -> None:
    """`--only`, or `--to esrgan` without it."""
    from ...model.checkpoints.format import load_checkpoint
    from ...model.checkpoints.publish import checkpoint_files
    from ...model.export.calibration import read_patches
    from ...model.export.esrgan import export_esrgan
    from ...model.export.tile_export import export_tile
    from ...pipeline.scientific.sample_format import format_in

    loaded, inputs = load_checkpoint(path, kind=("diffusion", "student", "rrdb")), checkpoint_files(path)
    format_in(loaded.config).require_rgb8(f"{printable(path)}: --only and --to esrgan")
    if to_esrgan:
        print_status(str(export_esrgan(loaded, str(path), target, overwrite=overwrite, inputs=inputs)))
        return
    scale = int(str(loaded.config["scale"]))
    patches = [] if calibrate is None else read_patches(calibrate, scale=scale, side=side)
    files, manifest = export_tile(
        loaded,
        str(path),
        target,
        only=only,
        side=side,
        precision=precision,
        patches=patches,
        overwrite=overwrite,
        inputs=inputs,
    )
    print_status(f"{files[0]}  {files[0].stat().st_size} bytes{_measured(manifest)}", f"{files[1]}")


def _measured(manifest: Manifest) -> str:
    found = manifest.psnr_y
    if found is None:
        return ""
    return f", PSNR-Y {found['exported']:.2f} dB on {found['patches']:.0f} patches ({found['loss']:+.3f} dB lost)"
