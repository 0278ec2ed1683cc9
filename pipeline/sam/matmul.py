"""Matrix products on whatever device their inputs lie. Pure.

On the CPU float32 products go through oneDNN instead of PyTorch's default, MKL: MKL has no AVX-512 kernels for AMD processors, where
oneDNN is 2.3 times faster (measured: 250 against 110 GFLOP/s per core on Zen 5); on Intel both are equal. The operator is the one
that PyTorch's own compiler emits. Where it is missing, the ordinary product gives the same numbers up to rounding.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight [N, K] transposed, plus bias [N]: [..., N]."""
    if _through_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU (with erf) of `linear`, in one pass over memory where the device can."""
    if _on_cpu(x) and has_onednn_linear():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return F.gelu(F.linear(x, weight, bias))


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """a [B, M, K] times b [B, K, N]: [B, M, N]."""
    if a.shape[0] == 1 and _through_onednn(a):
        return linear(a[0], b[0].t())[None]
    return torch.bmm(a, b)


def add_bmm(other: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """other [B, M, N] or [1, M, N] plus a [B, M, K] times b [B, K, N]."""
    if a.shape[0] == 1:
        return linear(a[0], b[0].t())[None].add_(other)
    return torch.baddbmm(other, a, b)


@cache
def has_onednn_linear() -> bool:
    """Whether this PyTorch has oneDNN's fused linear operator with the signature that we know."""
    x, ones = torch.tensor([[1.0, 2.0]]), torch.ones(1, 2)
    try:
        plain = torch.ops.mkldnn._linear_pointwise(x, ones, None, "none", [], "")
        smooth = torch.ops.mkldnn._linear_pointwise(x, ones, torch.zeros(1), "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return plain.item() == 3 and abs(smooth.item() - 2.99595) < 1e-4


def _through_onednn(x: Tensor) -> bool:
    return _on_cpu(x) and x.dtype == torch.float32 and has_onednn_linear()


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()  # the compiler chooses for itself
