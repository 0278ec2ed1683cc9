"""Static quantisation of an exported network to int8 by onnxruntime: QDQ, activations uint8, weights int8 per channel."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .manifest import INPUT

if TYPE_CHECKING:
    import onnx


def quantize(source: Path, target: Path, patches: Sequence[np.ndarray]) -> None:
    """Write the int8 form of an ONNX file.

    The input has the exact scale 1/255, so that 8-bit images lose nothing. Everything after the last convolution, and the bicubic base
    image, stay in float32.

    Args:
        source: the network in float32.
        target: the new file.
        patches: float32 [1, 3, N, N] in [0, 1], for the ranges of the activations.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(patches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            patch = next(self.left, None)
            return None if patch is None else {INPUT: patch}

    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises on steps that are done here
    try:
        with tempfile.TemporaryDirectory() as scratch:
            prepared = Path(scratch, "prepared.onnx")
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(target),
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=nodes_in_float(onnx.load(prepared)),
                extra_options={
                    "TensorQuantOverrides": {
                        INPUT: [
                            {
                                "quant_type": QuantType.QUInt8,
                                "scale": np.array(1 / 255, np.float32),
                                "zero_point": np.array(0, np.uint8),
                            }
                        ]
                    }
                },
            )
    finally:
        logging.root.setLevel(before)


def nodes_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that are not quantised: those after the last convolutions, and the base image (grouped convolution, padding)."""
    nodes = list(model.graph.node)
    makers = {name: node for node in nodes for name in node.output}
    kept: dict[str, None] = {}
    waiting = [output.name for output in model.graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type == "Conv" or node.name in kept:
            continue
        kept[node.name] = None
        waiting += node.input
    grouped = [node for node in nodes if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)]
    of_base = {name for node in grouped for name in node.input}
    return [*kept, *(node.name for node in grouped), *(node.name for node in nodes if of_base.intersection(node.output))]
