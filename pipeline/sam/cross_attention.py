"""Attention between a few tokens and many pixels, with the pixels' projections absorbed into the tokens. Pure, given a layer.

Segment-anything's `Attention` (modeling/transformer.py) computes softmax((x Wq + bq)(y Wk + bk)^T / sqrt(d)) (y Wv + bv) Wo + bo per
head. Where y or x is the image, only products of the image itself with something small are left; the sums are the same.

Letters: B points, T tokens, P pixels, C channels, h heads of d.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from .matmul import linear


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., n, h d] -> [..., h, n, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def self_attention(attention: Attention, placed: Tensor, tokens: Tensor) -> Tensor:
    """Attention among the tokens [B, T, C]; queries and keys come from `placed` (tokens plus position), values from `tokens`."""
    q, k = (split_heads(_apply(layer, placed), attention.num_heads) for layer in (attention.q_proj, attention.k_proj))
    v = split_heads(_apply(attention.v_proj, tokens), attention.num_heads)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return _apply(attention.out_proj, (weights @ v).transpose(1, 2).flatten(2))


class _Layer:
    """Weights of one attention, by head."""

    def __init__(self, attention: Attention) -> None:
        self.heads = attention.num_heads
        self.q, self.k, self.v, self.o = attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj
        self.scale = (self.q.out_features // self.heads) ** -0.5

    def _by_head(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [B, h, T, d] times weight [h, d, C], head by head: [B, h T, C]."""
        b, _, t, _ = x.shape
        out = torch.bmm(x.transpose(0, 1).flatten(1, 2), weight)  # [h, B T, C]
        return out.unflatten(1, (b, t)).transpose(0, 1).flatten(1, 2)


class TokenToImage(_Layer):
    """Cross attention from tokens to the image: queries are tokens, keys and values are pixels."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self.k_by_head = self.k.weight.unflatten(0, (self.heads, -1))  # [h, d, C]
        self.v_by_head = self.v.weight.unflatten(0, (self.heads, -1)).transpose(1, 2).contiguous()  # [h, C, d]

    def queries(self, placed: Tensor) -> Tensor:
        """[B, T, C] -> [B, h, T, d], with the factor 1 / sqrt(d)."""
        return split_heads(_apply(self.q, placed) * self.scale, self.heads)

    def project_keys(self, placed: Tensor) -> Tensor:
        """Pixels [P, C] -> [h, P, d]."""
        return split_heads(_apply(self.k, placed), self.heads)

    def project_values(self, pixels: Tensor) -> Tensor:
        """Pixels [P, C] -> [h, P, d]."""
        return split_heads(_apply(self.v, pixels), self.heads)

    def out(self, seen: Tensor) -> Tensor:
        """[B, T, h d] -> [B, T, C]."""
        return _apply(self.o, seen)

    def ask(self, placed: Tensor) -> Tensor:
        """Tokens [B, T, C] -> [B, h T, C]: its product with a pixel (plus position) is the logit, up to a constant per token.

        The keys' bias adds that constant, and softmax over the pixels takes it away again.
        """
        return self._by_head(self.queries(placed), self.k_by_head)

    def answer(self, seen: Tensor) -> Tensor:
        """Weighted mean of the pixels [B, h T, C] -> [B, T, C]: values, heads joined, output. The weights sum to 1: so does bv."""
        by_head = seen.unflatten(1, (self.heads, -1)).transpose(0, 1)  # [h, B, T, C]
        values = torch.bmm(by_head.flatten(1, 2), self.v_by_head).unflatten(1, by_head.shape[1:3])  # [h, B, T, d]
        return self.out(values.permute(1, 2, 0, 3).flatten(2) + self.v.bias)


class ImageToToken(_Layer):
    """Cross attention from the image to tokens: queries are pixels, keys and values are tokens."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention)
        self.q_by_head = self.q.weight.unflatten(0, (self.heads, -1))  # [h, d, C]
        self.q_bias = self.q.bias.unflatten(0, (self.heads, 1, -1))  # [h, 1, d]
        self.o_by_head = self.o.weight.t().unflatten(0, (self.heads, -1)).contiguous()  # [h, d, C]

    def project_queries(self, placed: Tensor) -> Tensor:
        """Pixels [P, C] -> [h, P, d]."""
        return split_heads(_apply(self.q, placed), self.heads)

    def plain(self, placed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys [B, h, T, d] with the factor 1 / sqrt(d), for pixels of `project_queries`; scatter as in `absorbed`."""
        return self._keys(placed), self._scatter(tokens)

    def absorbed(self, placed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For pixels as they are.

        Returns:
            back [B, h T, C] and shift [B, h T, 1]: `back . pixel + shift` is the logit, to be softmaxed over the T tokens of a head;
            scatter [B, h T, C]: weights times it, summed over heads and tokens, is the output.
        """
        keys = self._keys(placed)
        shift = (keys * self.q_bias).sum(-1, keepdim=True).flatten(1, 2)
        return self._by_head(keys, self.q_by_head), shift, self._scatter(tokens)

    def _keys(self, placed: Tensor) -> Tensor:
        return split_heads(_apply(self.k, placed) * self.scale, self.heads)

    def _scatter(self, tokens: Tensor) -> Tensor:
        scatter = self._by_head(split_heads(_apply(self.v, tokens), self.heads), self.o_by_head)
        scatter[:, : tokens.shape[1]] += self.o.bias  # one head's weights sum to 1, so it can carry the output's bias
        return scatter


def _apply(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)
