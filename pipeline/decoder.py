"""SAM's mask decoder for a grid of single-point prompts: the numbers of segment-anything's, with half of the work. Pure given a model.

Per image, not per point: whatever the first layer of the two-way transformer makes of the image alone. Per point, the projections
of the 4096 image tokens are absorbed into the 7 prompt tokens: `(keys Wk) . q = keys . (q Wk)`, `(A keys) Wv`, `A (v Wo)`.

Letters: B points, T = 7 tokens (predicted IoU, 4 masks, the point, "not a point"), P = 4096 image tokens (64 x 64), C = 256 channels,
h = 8 heads of d = 16. Source: Kirillov et al., Segment Anything, arXiv 2304.02643, appendix A; segment-anything 1.0
`modeling/mask_decoder.py` and `transformer.py` for the layers and the names of their weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gemm import add_bmm, bmm, linear, linear_gelu

POINT_MASKS = 3
"""Masks per point: the first mask token is for several prompts and stays unused."""


@dataclass(frozen=True)
class ImageSide:
    """What the decoder needs of one image: made once, used for all its points."""

    keys: Tensor
    """[1, P, C]: embedding plus the "no mask" prompt."""
    k0: Tensor
    """[h, d, P]: first layer, keys of the attention from tokens to image, divided by sqrt(d)."""
    v0: Tensor
    """[h, P, d]: its values."""
    q0: Tensor
    """[h, d, P]: first layer, queries of the attention from image to tokens, divided by sqrt(d)."""


class GridDecoder:
    """The mask decoder of a Sam, its weights rearranged; `image_side`, then `points` chunk by chunk.

    Args:
        sam: segment_anything.modeling.Sam, on its device.
        dtype: of the image tokens: float32, or bfloat16 (the prompt tokens are always float32).
        pixel_batch: points whose image tokens are processed together; 1 keeps them in a CPU's cache, None is the whole chunk.
    """

    def __init__(self, sam: nn.Module, dtype: torch.dtype = torch.float32, pixel_batch: int | None = None) -> None:
        decoder, prompts = sam.mask_decoder, sam.prompt_encoder
        self.dtype, self.pixel_batch = dtype, pixel_batch
        self.layer0, self.layer1 = decoder.transformer.layers
        self.final, self.final_norm = decoder.transformer.final_attn_token_to_image, decoder.transformer.norm_final_attn
        self.iou_head, self.hyper = decoder.iou_prediction_head, decoder.output_hypernetworks_mlps[1:]
        self.output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])  # [5, C]
        self.no_mask = prompts.no_mask_embed.weight  # [1, C]
        self.position = prompts.get_dense_pe()[0].flatten(1).t().contiguous()  # [P, C]
        self.position_cast = self.position.to(dtype)
        self.grid = prompts.image_embedding_size
        self.upscale = _Upscale(decoder.output_upscaling, dtype)

    def image_side(self, embedding: Tensor) -> ImageSide:
        """Everything of an image that no point changes; embedding float32 [C, 64, 64]."""
        keys = embedding.flatten(1).t() + self.no_mask  # [P, C]
        placed = keys + self.position
        t2i, i2t = self.layer0.cross_attn_token_to_image, self.layer0.cross_attn_image_to_token
        k0 = _split(linear(placed, t2i.k_proj.weight, t2i.k_proj.bias), t2i.num_heads) * _scale(t2i)  # [h, P, d]
        v0 = _split(linear(keys, t2i.v_proj.weight, t2i.v_proj.bias), t2i.num_heads)
        q0 = _split(linear(placed, i2t.q_proj.weight, i2t.q_proj.bias), i2t.num_heads) * _scale(i2t)
        cast = self.dtype
        return ImageSide(
            keys[None].to(cast).contiguous(),
            k0.transpose(1, 2).to(cast).contiguous(),
            v0.to(cast).contiguous(),
            q0.transpose(1, 2).to(cast).contiguous(),
        )

    def points(self, image: ImageSide, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Everything up to the upscaling, for B points.

        Args:
            image: of `image_side`.
            prompts: float32 [B, 2, C], the prompt encoder's sparse embeddings of a point and its padding.

        Returns:
            Predicted IoU, float32 [B, 3]; for `logits`: image tokens [B, P, C] and mask vectors [B, 3, 32].
        """
        first = torch.cat([self.output_tokens.expand(len(prompts), -1, -1), prompts], dim=1)  # [B, T, C]
        tokens = self.layer0.norm1(_self_attention(self.layer0.self_attn, first, first))  # the first layer adds no position
        t2i = self.layer0.cross_attn_token_to_image
        tokens = self.layer0.norm2(tokens + self._first_gather(image, t2i, tokens + first))
        tokens = self.layer0.norm3(tokens + _mlp(self.layer0.mlp, tokens))
        back0 = _scatter_first(self.layer0.cross_attn_image_to_token, tokens + first, tokens)

        placed = tokens + first
        tokens = self.layer1.norm1(tokens + _self_attention(self.layer1.self_attn, placed, tokens))
        t2i = self.layer1.cross_attn_token_to_image
        ask = _ask(t2i, tokens + first).to(self.dtype)
        keys, seen = self._each(self._pixels0, image, ask, back0.k.to(self.dtype), back0.v.to(self.dtype))
        tokens = self.layer1.norm2(tokens + _answer(t2i, seen))
        tokens = self.layer1.norm3(tokens + _mlp(self.layer1.mlp, tokens))
        back1 = _scatter(self.layer1.cross_attn_image_to_token, tokens + first, tokens)

        ask = _ask(self.final, tokens + first).to(self.dtype)
        keys, seen = self._each(self._pixels1, keys, ask, *(part.to(self.dtype) for part in back1))
        tokens = self.final_norm(tokens + _answer(self.final, seen))
        vectors = torch.stack([_head(mlp, tokens[:, 2 + k]) for k, mlp in enumerate(self.hyper)], dim=1)
        return _head(self.iou_head, tokens[:, 0])[:, 1:], keys, vectors
