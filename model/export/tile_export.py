"""One network of one step as an ONNX file with static tiles, with its manifest: `samdiff export-model --only …`."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...errors import ConfigError, missing_package, printable
from ...pipeline.export.new_target import new_files
from ...pipeline.storage.outputs import claim_outputs
from ..checkpoints.format import Checkpoint, weights_digest
from ..evaluation.metrics import psnr_y
from ..networks.rrdb import RRDB
from ..networks.student import Student
from .calibration import Patch
from .manifest import INPUT, KEY, MOST_TILE, OUTPUT, OVERLAP, Manifest
from .onnx_model import session_of
from .quantize import quantize
from .tile_network import PRECISIONS, TileNetwork, network_of, run_network

OPSET = 18
LEAST_TILE = 2 * OVERLAP + 1


def export_tile(
    checkpoint: Checkpoint,
    name: str,
    out: Path,
    *,
    only: str,
    side: int,
    precision: str,
    patches: Sequence[Patch] = (),
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
) -> tuple[list[Path], Manifest]:
    """Write one network as an ONNX file and a JSON file beside it. Returns both files and the manifest.

    Args:
        checkpoint: with the network.
        name: of the checkpoint's file, for messages.
        out: a file ending in `.onnx`, or a folder for `NETWORK-xS-N-PRECISION.onnx`.
        only: `rrdb` or `student`.
        side: N, the side of a tile in LR pixels.
        precision: `fp32`, `fp16` or `int8`.
        patches: from `read_patches`: the first half for calibration, the second for measuring; empty: nothing is measured.
        overwrite: whether existing files are replaced.
        inputs: files that are never replaced, such as the checkpoint.

    Raises:
        ConfigError: an unknown precision or size, int8 without patches, a package is missing, or a file exists.
        CheckpointError: the checkpoint has no such network.
        StoreError: the files cannot be written.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    if not LEAST_TILE <= side <= MOST_TILE:
        raise ConfigError(f"--static: expected {LEAST_TILE} to {MOST_TILE} pixels, got {side}")
    if precision == "int8" and not patches:
        raise ConfigError(
            "--precision int8: needs images for calibration; give --calibrate with a store or a folder of HR images"
        )
    network = network_of(checkpoint, only, name)
    scale = int(str(checkpoint.config["scale"]))
    file = out if out.suffix == ".onnx" else out / f"{only}-x{scale}-{side}-{precision}.onnx"
    names = [file.name, file.with_suffix(".json").name]
    claim_outputs([("--out", file.parent / each) for each in names], inputs, overwrite)
    _need_packages()
    manifest = Manifest(
        network=only,
        scale=scale,
        tile=side,
        overlap=OVERLAP,
        receptive_field=2 * network.radius + 1,
        precision=precision,
        opset=OPSET,
        weights_sha256=weights_digest(checkpoint.part(only)),
        licence=printable(checkpoint.facts.get("licence", "")),
        attribution=printable(checkpoint.facts.get("attribution", "")),
    )
    half = (len(patches) + 1) // 2
    with new_files(file.parent, names, "samdiff export-model", overwrite=overwrite) as new:
        _write(network, new / names[0], side=side, precision=precision, patches=[lr for lr, _ in patches[:half]])
        if patches:
            manifest = replace(manifest, psnr_y=measure(network, new / names[0], patches[half:], scale=scale))
        _add_manifest(new / names[0], manifest)
        data = (new / names[0]).read_bytes()
        facts = {"file": names[0], "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        text = json.dumps({**manifest.as_dict(), **facts}, indent=1, sort_keys=True)
        (new / names[1]).write_text(text + "\n", encoding="utf-8")
    return [file, file.with_suffix(".json")], manifest


def measure(network: RRDB | Student, file: Path, patches: Sequence[Patch], *, scale: int) -> dict[str, float]:
    """PSNR-Y (borders of `scale` pixels cropped) of the network and of its exported file on patches: means in dB, and their difference."""
    run = session_of(file.read_bytes())
    ours, exported = [], []
    for lr, hr in patches:
        unit = unit_tile(lr)
        exact = run_network(network, torch.from_numpy(unit)).numpy()
        ours.append(psnr_y(_pixels(exact), hr, scale))
        exported.append(psnr_y(_pixels(run.run([OUTPUT], {INPUT: unit})[0]), hr, scale))
    before, after = float(np.mean(ours)), float(np.mean(exported))
    return {
        "checkpoint": round(before, 4),
        "exported": round(after, 4),
        "loss": round(before - after, 4),
        "patches": len(patches),
    }


def unit_tile(lr: np.ndarray) -> np.ndarray:
    """uint8 [N, N, 3] -> float32 [1, 3, N, N] in [0, 1]."""
    return np.ascontiguousarray(lr.transpose(2, 0, 1)[None], np.float32) / np.float32(255)


def _pixels(unit: np.ndarray) -> np.ndarray:
    return (unit[0].transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)


def _write(network: RRDB | Student, file: Path, *, side: int, precision: str, patches: Sequence[np.ndarray]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    tile = TileNetwork(network, half=precision == "fp16").eval()
    with tempfile.TemporaryDirectory() as scratch:
        exact = Path(scratch, "exact.onnx") if precision == "int8" else file
        torch.onnx.export(
            tile,
            (torch.zeros(1, 3, side, side),),
            exact,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        if precision == "int8":
            quantize(exact, file, [unit_tile(lr) for lr in patches])


def _add_manifest(file: Path, manifest: Manifest) -> None:
    """Put the manifest into the file, and take out what is of no use outside of this machine: names of source lines."""
    import onnx

    model = onnx.load(file)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.value_info[:]
    own = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]  # quantisation adds all that it knows
    del model.opset_import[:]
    model.opset_import.extend(own)
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: manifest.text()})
    onnx.save(model, file)


def _need_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package(error, extra="export", what="export-model --only") from error
