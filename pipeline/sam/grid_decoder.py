"""The mask decoder of SAM and SAM 2 for a grid of single-point prompts: their numbers with half of the work. Pure, given a model.

Per image, not per point: whatever the first layer of the two-way transformer makes of the image alone. Per point: the projections
of the 4096 image tokens are absorbed into the 7 prompt tokens, `(keys Wk) . q = keys . (q Wk)`, `(A keys) Wv`, `A (v Wo)`.

Letters: B points, T = 7 tokens (predicted IoU, 4 masks, the point, "not a point"), P = 4096 image tokens (64 x 64), C = 256 channels,
h = 8 heads of d = 16. Source: Kirillov et al., Segment Anything, arXiv 2304.02643, appendix A; layers and names of weights as in
segment-anything 1.0, `modeling/mask_decoder.py` and `modeling/transformer.py`. SAM 2 (arXiv 2408.00714; package sam2) has an eighth token,
for the score of an object, which mask generation does not read; a sigmoid on predicted IoU; and two finer feature maps in the upscaling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..fast_grid.padding import Padding
from .cross_attention import ImageToToken, TokenToImage, self_attention
from .matmul import add_bmm, bmm, linear
from .upscaling import Upscale

POINT_MASKS = 3
"""Masks per point: the first of the four mask tokens is for several prompts and stays unused."""

_USED = [0, 2, 3, 4]
"""Tokens that are read in the end: predicted IoU and three masks, one later each in SAM 2. The others are left out of the last attention."""


class Promptable(Protocol):
    """segment_anything's Sam, or a `PointModel`."""

    mask_decoder: Any
    prompt_encoder: Any


@dataclass(frozen=True)
class ImageSide:
    """What the decoder needs of one image, computed once for all its points."""

    keys: Tensor
    """[1, P, C]: embedding plus the "no mask" prompt."""
    k0: Tensor
    """[h, d, P]: first layer, keys of the attention from tokens to image."""
    v0: Tensor
    """[h, P, d]: its values."""
    q0: Tensor
    """[h, d, P]: first layer, queries of the attention from image to tokens."""
    position: Tensor
    """[P, C]: positional encoding of the image tokens."""
    features: tuple[Tensor, Tensor] | None = None
    """Of `Upscale.features`, for SAM 2."""
    padding: Padding | None = None
    """If padding is merged; P is then the number of tokens that are left."""


@dataclass(frozen=True)
class Decoded:
    """The result of `GridDecoder.points` for B points; the logits come from `GridDecoder.logits`."""

    predicted_iou: Tensor
    """float32 [B, 3]."""
    keys: list[Tensor]
    """[b, P, C] each, b <= `pixel_batch`, together B: image tokens after both layers."""
    vectors: Tensor
    """float32 [B, 3, C/8]: a mask is its vector times the upscaled image tokens."""
    features: tuple[Tensor, Tensor] | None = None
    """Those of the image."""
    padding: Padding | None = None
    """That of the image."""


class GridDecoder:
    """The mask decoder of a model with its weights rearranged: `image_side` once, then `points` and `logits` chunk by chunk.

    Args:
        sam: on its device.
        dtype: of the image tokens, float32 or bfloat16; the prompt tokens are always float32.
        pixel_batch: points whose image tokens are processed together: 1 keeps them in a CPU's cache.
    """

    def __init__(self, sam: Promptable, dtype: torch.dtype = torch.float32, pixel_batch: int = 1) -> None:
        decoder, prompts = sam.mask_decoder, sam.prompt_encoder
        self.dtype, self.pixel_batch = dtype, pixel_batch
        self.layer0, self.layer1 = decoder.transformer.layers
        self.final_norm = decoder.transformer.norm_final_attn
        self.t2i_0, self.t2i_1 = (TokenToImage(layer.cross_attn_token_to_image) for layer in (self.layer0, self.layer1))
        self.i2t_0, self.i2t_1 = (ImageToToken(layer.cross_attn_image_to_token) for layer in (self.layer0, self.layer1))
        self.t2i_final = TokenToImage(decoder.transformer.final_attn_token_to_image)
        self.iou_head, self.hyper = decoder.iou_prediction_head, decoder.output_hypernetworks_mlps[1:]
        scored = [decoder.obj_score_token.weight] if getattr(decoder, "pred_obj_scores", False) else []
        self.output_tokens = torch.cat([*scored, decoder.iou_token.weight, decoder.mask_tokens.weight])  # [5, C], SAM 2: [6, C]
        self.mlps = [_linears(layer.mlp) for layer in (self.layer0, self.layer1)]
        self.has_features: bool = getattr(decoder, "use_high_res_features", False)
        self.no_mask = prompts.no_mask_embed.weight  # [1, C]
        self.used = torch.tensor([number + len(scored) for number in _USED], device=self.output_tokens.device)
        self.position = prompts.get_dense_pe()[0].flatten(1).t().contiguous()  # [P, C]
        self.norms = [(norm.weight.to(dtype), norm.bias.to(dtype), norm.eps) for norm in (self.layer0.norm4, self.layer1.norm4)]
        self.upscale = Upscale(decoder.output_upscaling, prompts.image_embedding_size[1], dtype)

    def image_side(self, embedding: Tensor, padding: Padding | None = None) -> ImageSide:
        """All that does not depend on the points.

        Args:
            embedding: of `PointModel.encode`: float32 [C, 64, 64], SAM 2: [4 C, 64, 64].
            padding: to be merged; None: nothing is.
        """
        n_channels = self.no_mask.shape[1]
        features = self.upscale.features(embedding[n_channels:]) if self.has_features else None
        keys, position = embedding[:n_channels].flatten(1).t().contiguous() + self.no_mask, self.position  # [P, C]
        if padding is not None:
            keys, position = padding.merge(keys), padding.merge(position)
        placed = keys + position
        k0 = self.t2i_0.project_keys(placed).transpose(1, 2)
        v0 = self.t2i_0.project_values(keys)
        q0 = self.i2t_0.project_queries(placed).transpose(1, 2)
        k0, v0, q0, position = (part.to(self.dtype).contiguous() for part in (k0, v0, q0, position))
        return ImageSide(keys[None].to(self.dtype), k0=k0, v0=v0, q0=q0, position=position, features=features, padding=padding)

    def points(self, image: ImageSide, prompts: Tensor) -> Decoded:
        """Everything up to the upscaling, for B points; `prompts` float32 [B, 2, C]: the prompt encoder's embedding of a point."""
        first = torch.cat([self.output_tokens.expand(len(prompts), -1, -1), prompts], dim=1)  # [B, T, C]

        layer = self.layer0  # its self-attention replaces the tokens and adds no position
        tokens = layer.norm1(self_attention(layer.self_attn, first, first))
        tokens = layer.norm2(tokens + self._look_at_image(image, tokens + first))
        tokens = layer.norm3(tokens + _mlp(self.mlps[0], tokens))
        heads, scatter = self.i2t_0.plain(tokens + first, tokens)

        layer = self.layer1
        tokens = layer.norm1(tokens + self_attention(layer.self_attn, tokens + first, tokens))
        ask = self.t2i_1.ask(tokens + first)
        keys, seen = self._first_pixels(image, heads.to(self.dtype), scatter=scatter.to(self.dtype), ask=ask.to(self.dtype))
        tokens = layer.norm2(tokens + self.t2i_1.answer(seen.float()))
        tokens = layer.norm3(tokens + _mlp(self.mlps[1], tokens))
        back, shift, scatter = self.i2t_1.absorbed(tokens + first, tokens)

        tokens, first = tokens.index_select(1, self.used), first.index_select(1, self.used)
        ask = self.t2i_final.ask(tokens + first)
        cast = (part.to(self.dtype) for part in (back, shift, scatter, ask))
        keys, seen = self._second_pixels(image, keys, *cast)
        tokens = self.final_norm(tokens + self.t2i_final.answer(seen.float()))
        vectors = torch.stack([_head(mlp, tokens[:, 1 + k]) for k, mlp in enumerate(self.hyper)], dim=1)
        iou = _head(self.iou_head, tokens[:, 0])[:, 1:]
        return Decoded(iou, keys, vectors, features=image.features, padding=image.padding)

    def logits(self, decoded: Decoded, point: list[int], mask: list[int], rows: int, columns: int) -> Tensor:
        """Low-resolution logits of some masks.

        Args:
            decoded: of `points`.
            point: of each wanted mask, 0 .. B - 1, ascending.
            mask: of each wanted mask, 0 .. 2.
            rows: of the 64 rows of image tokens, upscale only the first so many: the others are padding.
            columns: likewise.

        Returns:
            float32 [len(point), 4 rows, 4 columns].
        """
        wanted: dict[int, list[int]] = {}
        for b, k in zip(point, mask, strict=True):
            wanted.setdefault(b, []).append(k)
        out = []
        for b, masks in wanted.items():
            keys = decoded.keys[b // self.pixel_batch][b % self.pixel_batch]
            out.append(self._upscaled(keys[None], decoded.vectors[b, masks][None], rows=rows, columns=columns, of=decoded)[0])
        return torch.cat(out)

    def all_logits(self, decoded: Decoded, rows: int, columns: int) -> Tensor:
        """Low-resolution logits of every mask of every point: float32 [B, 3, 4 rows, 4 columns]; arguments as of `logits`."""
        groups = zip(decoded.keys, decoded.vectors.split(self.pixel_batch), strict=True)
        return torch.cat([self._upscaled(keys, vectors, rows=rows, columns=columns, of=decoded) for keys, vectors in groups])

    def _upscaled(self, keys: Tensor, vectors: Tensor, *, rows: int, columns: int, of: Decoded) -> Tensor:
        """`Upscale` of image tokens [b, P, C] without merged padding."""
        stride, padding = self.upscale.columns, of.padding
        if padding is not None:
            keys, stride = keys[:, : padding.n_kept], padding.kept_columns
        return self.upscale(keys, vectors, rows=rows, columns=columns, stride=stride, features=of.features)

    def _look_at_image(self, image: ImageSide, placed: Tensor) -> Tensor:
        """First attention from tokens to image, whose keys and values are the image's: [B, T, C] -> [B, T, C]."""
        b = len(placed)
        q = self.t2i_0.queries(placed).transpose(0, 1).flatten(1, 2)  # [h, B T, d]
        attention = _weighted(torch.bmm(q.to(self.dtype), image.k0), image.padding).softmax(-1)  # [h, B T, P]
        seen = torch.bmm(attention, image.v0).unflatten(1, (b, -1))  # [h, B, T, d]
        return self.t2i_0.out(seen.permute(1, 2, 0, 3).flatten(2).float())

    def _first_pixels(self, image: ImageSide, heads: Tensor, scatter: Tensor, ask: Tensor) -> tuple[list[Tensor], Tensor]:
        """First attention from image to tokens, then the second from tokens to image: keys [b, P, C] each, seen [B, h T, C]."""
        keys, seen = [], []
        for few, back, question in self._few(heads, scatter, ask):
            logits = torch.bmm(few.transpose(0, 1).flatten(1, 2), image.q0).unflatten(1, few.shape[::2])  # [h, b, T, P]
            attention = logits.softmax(2).transpose(0, 1).flatten(1, 2)  # over tokens: [b, h T, P], pixels last
            keys.append(self._norm(0, add_bmm(image.keys, attention.transpose(1, 2), back)))
            seen.append(self._gather(image, keys[-1], question))
        return keys, torch.cat(seen)

    def _second_pixels(
        self, image: ImageSide, keys: list[Tensor], back: Tensor, shift: Tensor, scatter: Tensor, ask: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Second attention from image to tokens, then the final one from tokens to image; `keys` is overwritten."""
        seen = []
        for k, (few, constant, forth, question) in enumerate(self._few(back, shift, scatter, ask)):
            logits = bmm(few, (keys[k] + image.position).transpose(1, 2)).add_(constant)  # [b, h T, P]
            attention = logits.unflatten(1, (self.t2i_1.heads, -1)).softmax(2).flatten(1, 2)
            keys[k] = self._norm(1, add_bmm(keys[k], attention.transpose(1, 2), forth))
            seen.append(self._gather(image, keys[k], question))
        return keys, torch.cat(seen)

    def _few(self, *parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The same tensors, `pixel_batch` points at a time."""
        return zip(*(part.split(self.pixel_batch) for part in parts), strict=True)

    def _gather(self, image: ImageSide, keys: Tensor, ask: Tensor) -> Tensor:
        """`softmax(ask . (keys + position)) keys`: [b, h T, C]."""
        logits = bmm(ask, (keys + image.position).transpose(1, 2))
        return bmm(_weighted(logits, image.padding).softmax(-1), keys)

    def _norm(self, layer: int, x: Tensor) -> Tensor:
        weight, bias, eps = self.norms[layer]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def _weighted(logits: Tensor, padding: Padding | None) -> Tensor:
    """Attention logits [..., P] in which a merged token counts as all that it stands for; in place."""
    if padding is not None:
        logits[..., padding.n_kept :] += padding.log_count.to(logits.dtype)
    return logits


def _linears(block: Any) -> tuple[nn.Linear, nn.Linear]:
    """Both layers of a transformer's MLP: segment-anything names them, sam2 lists them."""
    first, second = (block.lin1, block.lin2) if hasattr(block, "lin1") else block.layers
    return first, second


def _mlp(layers: tuple[nn.Linear, nn.Linear], x: Tensor) -> Tensor:
    first, second = layers
    return linear(F.relu(linear(x, first.weight, first.bias)), second.weight, second.bias)


def _head(mlp: Any, x: Tensor) -> Tensor:
    for k, layer in enumerate(mlp.layers):
        x = linear(x if k == 0 else F.relu(x), layer.weight, layer.bias)
    return torch.sigmoid(x) if mlp.sigmoid_output else x
