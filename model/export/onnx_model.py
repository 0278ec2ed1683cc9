"""Runs an ONNX file that `samdiff export-model --only` wrote: `load_onnx(file).upscale(image)`. The file is untrusted."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError, missing_package, printable
from ...pipeline.storage.regular import read_regular
from ..inference.resolver import OneStepNetwork, OneStepResolver
from .manifest import INPUT, KEY, OUTPUT, read_manifest
from .onnx_check import MAX_BYTES, check_model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_CHANNELS = 128  # of features, for the estimate of memory; the file does not state it


def load_onnx(file: Path) -> OneStepResolver:
    """Load an exported network for inference on the CPU.

    Raises:
        ConfigError: onnx or onnxruntime is not installed, the file cannot be read, is too large, was not written by
            `samdiff export-model --only`, or has parts that such a file has not: other files, operators or sizes.
    """
    where = printable(file)
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise missing_package(error, extra="export", what="infer --onnx") from error
    try:
        data = read_regular(file, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror or error}); expected an ONNX file") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # noqa: BLE001 - protobuf's errors have no public base class; the file is the user's
        raise ConfigError(f"{where}: not an ONNX file, or a damaged one; export the model again") from error
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if KEY not in texts:
        raise ConfigError(
            f"{where}: has no manifest; expected a file that `samdiff export-model --only rrdb` or `student` wrote"
        )
    manifest = read_manifest(texts[KEY], where)
    check_model(model, manifest, where)
    try:
        session = session_of(data)
    except Exception as error:  # noqa: BLE001 - onnxruntime raises several classes; the file is the user's
        raise ConfigError(f"{where}: onnxruntime cannot load it ({printable(error)[:300]}); export the model again") from error
    return OneStepResolver(
        _as_network(session, str(file)),
        name=str(file),
        scale=manifest.scale,
        sha256=hashlib.sha256(data).hexdigest(),
        device=torch.device("cpu"),
        channels=_CHANNELS,
        side=manifest.tile,
    )


def session_of(data: bytes) -> InferenceSession:
    """A session of onnxruntime on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _as_network(session: InferenceSession, name: str) -> OneStepNetwork:
    def network(lr: Tensor) -> Tensor:
        unit = ((lr + 1) / 2).contiguous().numpy()
        image = torch.from_numpy(session.run([OUTPUT], {INPUT: unit})[0])
        if not bool(torch.isfinite(image).all()):
            raise CheckpointError(
                f"{printable(name)}: gives values that are not finite, so it is damaged; take another copy of the file"
            )
        return image * 2 - 1

    return network
