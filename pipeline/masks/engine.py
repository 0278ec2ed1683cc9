"""Masks of one image with a grid of points: encoder, decoder in chunks, and the selection of the masks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from torch import Tensor

from ...errors import ConfigError, WeightsError
from ...runtime import l2_bytes
from ..encode.mask_table import MaskTable
from ..encode.rle import area
from ..fast_grid.choice import choose_points
from ..fast_grid.contrast import at_points, contrast
from ..fast_grid.padding import Padding, find_padding
from ..point_models.interface import point_model
from ..sam.grid_decoder import POINT_MASKS, Decoded, GridDecoder, ImageSide
from .host_copy import fetch
from .interpolation import Frame, make_frame
from .iou_filter import Collector, EagerFilter, StaticFilter, Survivors
from .measure import Thresholds
from .nms import CropContext, Pool, choose
from .settings import ENCODER_BATCH_CUDA, MaskConfig, number_type

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base
    from segment_anything.modeling import Sam

log = logging.getLogger(__name__)

_POINTS = 64
"""Points per chunk on a CPU: many rows make the products of prompt tokens efficient; image tokens are processed one point at a time."""
_RESIZE_THREADS = 4
"""Threads that resize the images of an encoder batch. PIL and PyTorch release the interpreter's lock."""

_POOL_BYTES = 1 << 30
"""Bound on the logits of candidates that are kept before they are measured (see `Pool`): 4,000 masks."""


def points_for_cache(cache_bytes: int, point_bytes: int) -> int:
    """Points per chunk on a GPU, so that their image tokens fit its L2 cache: a multiple of 8 from 8 to 64.

    16 on an H100 in float32, 24 in bfloat16. Calculated, not measured.
    """
    return min(64, max(8, round(cache_bytes / point_bytes / 8) * 8))


class MaskEngine:
    """Masks of crops by points; caches the `Frame` of each crop size.

    Args:
        sam: in eval mode, on its device.
        settings: of the generator.

    Raises:
        ConfigError: a setting that the model's own generator does not have.
    """

    def __init__(self, sam: Sam | SAM2Base, settings: MaskConfig) -> None:
        model = point_model(sam)
        settings = settings.resolved(model.family)
        self.model, self.settings = model, settings
        self.device = model.device
        cuda = self.device.type == "cuda"
        dtype: torch.dtype = getattr(torch, number_type(settings.mode, self.device))
        if settings.mode == "fast" and dtype == torch.float32:
            log.warning("%s has no instructions for bfloat16: mode fast decodes in float32", self.device)
        self.static = cuda or settings.compile  # the same shapes for every chunk and batch: see `collect`
        self.encoder_batch = ENCODER_BATCH_CUDA if cuda else 1
        rows, columns = model.prompt_encoder.image_embedding_size
        point_bytes = rows * columns * model.prompt_encoder.embed_dim * dtype.itemsize
        self.chunk = min(settings.points_per_batch, points_for_cache(l2_bytes(self.device), point_bytes) if cuda else _POINTS)
        self.halved, self.pool_bytes = False, _POOL_BYTES
        with torch.inference_mode():
            self.decoder = GridDecoder(model, dtype, pixel_batch=self.chunk if cuda else 1)
        self.encoder: Callable[[Tensor], Tensor] = model.encode
        self.decode: Callable[[ImageSide, Tensor], Decoded] = self.decoder.points
        if settings.compile:
            self.encoder, self.decode = torch.compile(self.encoder, dynamic=False), torch.compile(self.decode, dynamic=False)
        threshold = model.mask_threshold if settings.mask_threshold is None else settings.mask_threshold
        self.cut = Thresholds(threshold, settings.stability_score_offset)
        grids = settings.point_grids or build_all_layer_point_grids(
            settings.points_per_side, settings.crop_n_layers, settings.crop_n_points_downscale_factor
        )
        self.grids = [np.asarray(grid, np.float64) for grid in grids]
        self._frames: dict[tuple[int, int], Frame] = {}
        self._paddings: dict[tuple[int, int], Padding | None] = {}

    def crops(self, height: int, width: int) -> list[tuple[tuple[int, int, int, int], int]]:
        """(x0, y0, x1, y1 half-open, layer) of every crop of an image, the whole image first."""
        settings = self.settings
        boxes, layers = generate_crop_boxes((height, width), settings.crop_n_layers, settings.crop_overlap_ratio)
        return [((x0, y0, x1, y1), layer) for (x0, y0, x1, y1), layer in zip(boxes, layers, strict=True)]

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray | Tensor]) -> Tensor:
        """Embeddings of images of any sizes: float32 [B, C, 64, 64], of SAM 2 [B, 4 C, 64, 64].

        Args:
            images: uint8 [H, W, 3] each, or what the model's `resized` made of it.

        Raises:
            WeightsError: they are not finite.
            ConfigError: out of memory with one image.
        """
        pixels, parts, start = self._inputs(images), [], 0
        while start < len(pixels):
            some = pixels[start : start + self.encoder_batch]
            try:
                parts.append(self._encode(some))
            except torch.cuda.OutOfMemoryError as error:
                self._halve_batch(error)
                continue
            start += len(some)
        embeddings = torch.cat(parts)
        if not bool(torch.isfinite(embeddings).all()):
            raise WeightsError(
                "the segmenter's image embedding has NaN or infinity: its weights are damaged; download them again"
            )
        return embeddings

    def _inputs(self, images: Sequence[np.ndarray | Tensor]) -> list[Tensor]:
        """Inputs of the encoder, each float32 [1, 3, side, side]; images that are not resized yet are resized now, several in threads."""
        if sum(isinstance(image, np.ndarray) for image in images) < 2:
            return [self.model.pixels(self._resized(image)) for image in images]
        with ThreadPoolExecutor(_RESIZE_THREADS, thread_name_prefix="resize") as pool:
            return [self.model.pixels(image) for image in pool.map(self._resized, images)]

    def _resized(self, image: np.ndarray | Tensor) -> Tensor:
        return image if isinstance(image, Tensor) else self.model.resized(image)

    def _encode(self, pixels: list[Tensor]) -> Tensor:
        """Embeddings of one batch, [1, 3, side, side] each; with static shapes the batch is padded with its last image."""
        full = pixels + pixels[-1:] * (self.encoder_batch - len(pixels)) if self.static else pixels
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            return self.encoder(torch.cat(full))[: len(pixels)]

    def _halve_batch(self, error: torch.cuda.OutOfMemoryError) -> None:
        """Halve the encoder batch: vit_h takes about 3 GB per image, and no option sets the batch size."""
        if self.encoder_batch == 1:
            raise ConfigError(
                f"out of memory on {self.device} with one image in the segmenter's encoder; "
                "use a smaller segmenter (--sam) or another device"
            ) from error
        self.encoder_batch //= 2
        log.warning("out of memory on %s: continuing with %d images per encoder batch", self.device, self.encoder_batch)

    @torch.inference_mode()
    def candidates(self, embedding: Tensor, crop: tuple[int, int, int, int], *, layer: int, size: tuple[int, int]) -> Pool:
        """All masks above the threshold of predicted IoU of one crop; arguments as of `masks`.

        Raises:
            WeightsError: the decoder's output is not finite.
        """
        x0, y0, x1, y1 = crop
        frame = self.frame(y1 - y0, x1 - x0)
        image = self.decoder.image_side(embedding, self._padding(frame))
        pool = Pool(CropContext(frame, crop, image=size, cut=self.cut), self.settings, self.pool_bytes)
        points = self._chosen(embedding, self.grids[layer], frame) * np.array([x1 - x0, y1 - y0])
        points = points.astype(self.model.point_type)
        prompts = self._prompts(points, frame)
        start = 0
        while start < len(points):
            some = prompts[start : start + self._round(frame)]
            survivors = self._passing(image, some, frame)
            if survivors is not None:
                pool.add(survivors.logits, survivors.predicted_iou, points[start + survivors.point])
            start += len(some)
        return pool

    def _chosen(self, embedding: Tensor, grid: np.ndarray, frame: Frame) -> np.ndarray:
        """The points of a grid, float64 [n, 2] in 0 .. 1, that are prompted; in mode fast those that `choose_points` takes."""
        if self.settings.mode == "exact":
            return grid
        return grid[choose_points(grid, self.contrast(embedding, grid, frame), self.settings.fast_share)]

    def contrast(self, embedding: Tensor, grid: np.ndarray, frame: Frame) -> np.ndarray:
        """How much the embedding [C', 64, 64] of a crop differs from its surroundings, at points [n, 2] in 0 .. 1: float32 [n]."""
        tokens = embedding[: self.decoder.no_mask.shape[1], : frame.token_rows, : frame.token_columns]
        rows, columns = (size * embedding.shape[1] / self.model.side for size in self.model.inside(*frame.size))
        places = torch.as_tensor(grid * np.array([columns, rows]), dtype=torch.float32, device=self.device)
        (values,) = fetch(at_points(contrast(tokens), places))
        return values

    def _padding(self, frame: Frame) -> Padding | None:
        """The padding to merge: none in mode exact, nor where shapes must not depend on the image."""
        if self.settings.mode == "exact" or self.settings.compile:
            return None
        used = frame.token_rows, frame.token_columns
        if used not in self._paddings:
            rows, columns = self.model.prompt_encoder.image_embedding_size
            self._paddings[used] = find_padding(rows, columns, used_rows=used[0], used_columns=used[1], device=self.device)
        return self._paddings[used]

    def _round(self, frame: Frame) -> int:
        """Points between synchronisations with the device: on a CPU one chunk; with static shapes as many as fit the pool with all masks."""
        if not self.static:
            return self.chunk
        mask_bytes = 4 * frame.y.n_low * frame.x.n_low
        return max(1, self.pool_bytes // (POINT_MASKS * mask_bytes * self.chunk)) * self.chunk

    def _prompts(self, points: np.ndarray, frame: Frame) -> Tensor:
        """Embeddings of points [n, 2] in a crop: float32 [n, 2, C]. Once per crop, as segment-anything's code synchronises here."""
        return self.model.prompts(points, frame.size)

    def _passing(self, image: ImageSide, prompts: Tensor, frame: Frame) -> Survivors | None:
        """The masks of some points whose predicted IoU is above the threshold; None if there are none."""
        threshold = self.settings.pred_iou_thresh
        assert threshold is not None  # of `resolved`
        collector: Collector = EagerFilter(self.decoder, frame, threshold)
        if self.static:
            collector = StaticFilter(self.decoder, frame, threshold, points=len(prompts), device=self.device)
        for first in range(0, len(prompts), self.chunk):
            chunk = prompts[first : first + self.chunk]
            real = len(chunk)
            if self.static and real < self.chunk:
                chunk = torch.cat([chunk, chunk[-1:].expand(self.chunk - real, -1, -1)])
            collector.add(self.decode(image, chunk), first, real)
        return collector.passing()

    def _halve_chunk(self, error: torch.cuda.OutOfMemoryError) -> None:
        """Halve the points per chunk; the second time raise ConfigError."""
        if self.halved or self.chunk == 1:
            once = ", after halving it once; lower points_per_batch (--points-per-batch), or" if self.chunk > 1 else ";"
            raise ConfigError(
                f"out of memory on {self.device} with {self.chunk} points at a time{once} use a smaller segmenter or another device"
            ) from error
        self.halved, self.chunk, self.pool_bytes = True, self.chunk // 2, self.pool_bytes // 2
        log.warning("out of memory on %s: continuing with %d points at a time", self.device, self.chunk)

    @torch.inference_mode()
    def masks(self, embedding: Tensor, crop: tuple[int, int, int, int], *, layer: int, size: tuple[int, int]) -> MaskTable:
        """Masks of one crop of an image, in the coordinates of the image.

        Args:
            embedding: of the crop, from `encode`.
            crop: x0, y0, x1, y1 in the image, half-open.
            layer: of the crop, 0 for the whole image.
            size: H, W of the image.

        Raises:
            WeightsError: the decoder's output is not finite.
            ConfigError: out of memory on the device.
        """
        try:
            kept = choose(self.candidates(embedding, crop, layer=layer, size=size))
        except torch.cuda.OutOfMemoryError as error:
            self._halve_chunk(error)
            kept = None
        if kept is None:  # retried outside the except block, where the error no longer references the first attempt's memory
            return self.masks(embedding, crop, layer=layer, size=size)
        some = np.array([len(counts) > 1 for counts in kept.counts], bool)[:, None]  # an empty mask has an empty box
        x0, y0 = crop[:2]
        return MaskTable(
            size[0],
            size[1],
            kept.counts,
            area=np.array([area(counts) for counts in kept.counts], np.int64),
            box=((kept.boxes + [x0, y0, x0 + 1, y0 + 1]) * some).astype(np.int32).reshape(-1, 4),
            predicted_iou=kept.predicted_iou,
            stability=kept.stability,
            point=(kept.points + np.array([x0, y0])).astype(self.model.point_type).astype(np.float64),
            crop_box=np.tile(np.array(crop, np.int32), (len(kept.counts), 1)),
        )

    def frame(self, height: int, width: int) -> Frame:
        """The cached `Frame` of crops of this size."""
        if (height, width) not in self._frames:
            if len(self._frames) >= 64:
                self._frames.clear()
            n_low = 4 * self.model.prompt_encoder.image_embedding_size[0]
            n_step = self.model.n_step
            self._frames[height, width] = make_frame(height, width, n_low=n_low, n_model=n_step, device=self.device)
        return self._frames[height, width]
