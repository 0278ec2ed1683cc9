"""Checks of an untrusted ONNX file before it is run: no other files, only the operators of exported networks, bounded sizes. Pure."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...errors import ConfigError, printable
from .manifest import INPUT, OUTPUT, Manifest

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 256 << 20
OPERATORS = frozenset(
    [
        "Add",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Conv",
        "DepthToSpace",
        "DequantizeLinear",
        "Identity",
        "LeakyRelu",
        "Mul",
        "Pad",
        "QuantizeLinear",
        "Relu",
        "Resize",
    ]
)
"""Those of the RRDB and of the student in all precisions. None of them reads files or runs code."""
_MOST_CHANNELS = 8192  # of a feature map


def check_model(model: onnx.ModelProto, manifest: Manifest, where: str) -> None:
    """ConfigError if the model has other files, operators or shapes than an exported network has.

    Args:
        model: the file, parsed; other files that it names were not opened.
        manifest: of the file.
        where: the file's name, for messages.
    """
    import onnx

    graph = model.graph
    outside = [each for each in graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL or each.external_data]
    if outside:
        raise ConfigError(f"{where}: keeps weights in another file, which is not read; export the model again")
    _check_operators(model, where)
    n, s = manifest.tile, manifest.scale
    weights = {each.name for each in graph.initializer}
    inputs = {each.name: _shape(each) for each in graph.input if each.name not in weights}
    outputs = {each.name: _shape(each) for each in graph.output}
    if n < 1 or inputs != {INPUT: [1, 3, n, n]} or outputs != {OUTPUT: [1, 3, s * n, s * n]}:
        raise ConfigError(
            f"{where}: expected the input {INPUT} [1, 3, {n}, {n}] and the output {OUTPUT} [1, 3, {s * n}, {s * n}], as its manifest says, "
            f"got {printable(inputs)[:200]} and {printable(outputs)[:200]}"
        )
    try:
        known = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except Exception as error:  # noqa: BLE001 - onnx raises several classes; the file is the user's
        raise ConfigError(f"{where}: its shapes contradict each other ({printable(error)[:200]})") from error
    shapes = {each.name: _shape(each) for each in known.graph.value_info}
    for node in known.graph.node:
        for name in node.output:
            shape = [1] if node.op_type == "Constant" or name in outputs else shapes.get(name)
            if shape is None or min(shape, default=1) < 0 or prod(shape) > _MOST_CHANNELS * (s * n) ** 2:
                raise ConfigError(
                    f"{where}: a tensor between its layers has no size, or one out of range; export the model again"
                )


def _check_operators(model: onnx.ModelProto, where: str) -> None:
    strange = [entry.domain for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    other = sorted({n.op_type for n in model.graph.node if n.op_type not in OPERATORS or n.domain not in ("", "ai.onnx")})
    if strange or other or model.functions or model.graph.sparse_initializer:
        what = other[0] if other else strange[0] if strange else "functions of its own"
        raise ConfigError(f"{where}: holds {printable(what)[:80]}, which no exported network of samdiff has; it is not run")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or (attribute.HasField("t") and attribute.t.external_data):
                raise ConfigError(f"{where}: a node holds a graph or names another file; it is not run")


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    """Sizes along the axes; -1 for one that is not fixed."""
    return [d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim]
