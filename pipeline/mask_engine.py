"""One image through a Sam with a grid of points: encoder, decoder chunk by chunk, and the choice among the candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from segment_anything.utils.amg import build_all_layer_point_grids, generate_crop_boxes
from torch import Tensor
from torch.nn import functional as F

from ..errors import WeightsError
from .candidates import Pool, choose
from .decoder import GridDecoder
from .enlarge import Frame, inside, make_frame
from .mask_settings import MaskSettings
from .mask_table import MaskTable
from .postprocess import Thresholds
from .rle import area

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class MaskEngine:
    """Masks of crops by points; keeps what depends on the size of a crop alone.

    Args:
        sam: in eval mode, on its device.
        settings: of the generator.
    """

    def __init__(self, sam: Sam, settings: MaskSettings) -> None:
        self.sam, self.settings = sam, settings
        self.device = sam.pixel_mean.device
        self.side = sam.image_encoder.img_size
        self.encoder_batch = 8 if self.device.type == "cuda" else 1
        with torch.inference_mode():
            self.decoder = GridDecoder(sam, torch.bfloat16 if settings.mode == "fast" else torch.float32)
        self.cut = Thresholds(sam.mask_threshold, settings.stability_score_offset)
        grids = settings.point_grids or build_all_layer_point_grids(
            settings.points_per_side, settings.crop_n_layers, settings.crop_n_points_downscale_factor
        )
        self.grids = [np.asarray(grid, np.float64) for grid in grids]
        self._frames: dict[tuple[int, int], Frame] = {}

    def crops(self, height: int, width: int) -> list[tuple[tuple[int, int, int, int], int]]:
        """(x0, y0, x1, y1 half-open, layer) of every crop of an image, the whole image first."""
        settings = self.settings
        boxes, layers = generate_crop_boxes((height, width), settings.crop_n_layers, settings.crop_overlap_ratio)
        return [((x0, y0, x1, y1), layer) for (x0, y0, x1, y1), layer in zip(boxes, layers, strict=True)]

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """Embeddings of images uint8 [H, W, 3] of any sizes: float32 [B, C, 64, 64].

        Raises:
            WeightsError: they are not finite.
        """
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            embeddings = self.sam.image_encoder(torch.cat([self._to_model(image) for image in images]))
        if not bool(torch.isfinite(embeddings).all()):
            raise WeightsError(
                "the segmenter's image embedding holds NaN or infinity: its weights are damaged; load them again"
            )
        return embeddings

    @torch.inference_mode()
    def candidates(self, embedding: Tensor, size: tuple[int, int], layer: int) -> Pool:
        """All masks above the threshold of predicted IoU of one crop with H x W pixels.

        Raises:
            WeightsError: the decoder's numbers are not finite.
        """
        pool, frame = Pool(), self.frame(*size)
        image = self.decoder.image_side(embedding)
        for points, prompts in self._prompts(size, layer):
            decoded = self.decoder.points(image, prompts)
            predicted = decoded.predicted_iou.cpu().numpy()
            if not np.isfinite(predicted).all():
                raise WeightsError(
                    "the mask decoder's predicted IoU holds NaN or infinity: its weights are damaged; load them again"
                )
            threshold = self.settings.pred_iou_thresh
            point, mask = np.nonzero(predicted > threshold) if threshold > 0 else np.nonzero(predicted == predicted)
            if len(point):
                logits = self.decoder.logits(decoded, point.tolist(), mask.tolist(), frame.token_rows, frame.token_columns)
                pool.add(logits, predicted[point, mask], points[point])
        return pool

    @torch.inference_mode()
    def masks(self, embedding: Tensor, crop: tuple[int, int, int, int], layer: int, size: tuple[int, int]) -> MaskTable:
        """Masks of one crop (x0, y0, x1, y1, half-open) of an image with H x W pixels, in the image's frame."""
        x0, y0, x1, y1 = crop
        pool = self.candidates(embedding, (y1 - y0, x1 - x0), layer)
        whole = (0, 0, size[1], size[0])
        kept = choose(pool, self.frame(y1 - y0, x1 - x0), self.settings, self.cut, crop, whole)
        some = np.array([len(counts) > 1 for counts in kept.counts], bool)[:, None]  # an empty mask has an empty box
        return MaskTable(
            size[0],
            size[1],
            kept.counts,
            np.array([area(counts) for counts in kept.counts], np.int64),
            ((kept.boxes + [x0, y0, x0 + 1, y0 + 1]) * some).astype(np.int32).reshape(-1, 4),
            kept.predicted_iou,
            kept.stability,
            kept.points + np.array([x0, y0]),
            np.tile(np.array(crop, np.int32), (len(kept.counts), 1)),
        )

    def frame(self, height: int, width: int) -> Frame:
        """How logits become a crop of this size."""
        if (height, width) not in self._frames:
            if len(self._frames) >= 64:
                self._frames.clear()
            n_low = 4 * self.sam.prompt_encoder.image_embedding_size[0]
            self._frames[height, width] = make_frame(height, width, n_low, self.side, self.device)
        return self._frames[height, width]

    def _to_model(self, image: np.ndarray) -> Tensor:
        """Resized (PIL, bilinear, as segment-anything does), normalised, padded: float32 [1, 3, side, side]."""
        height, width = inside(image.shape[0], image.shape[1], self.side)
        small = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None]
        normal: Any = (pixels - self.sam.pixel_mean) / self.sam.pixel_std
        return F.pad(normal, (0, self.side - width, 0, self.side - height))

    def _prompts(self, size: tuple[int, int], layer: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Chunks of points: float64 [B, 2] (x, y) in the crop, and the prompt encoder's [B, 2, C]."""
        height, width = size
        rows, columns = inside(height, width, self.side)
        points = self.grids[layer] * np.array([width, height])
        for start in range(0, len(points), self.settings.points_per_batch):
            some = points[start : start + self.settings.points_per_batch]
            coordinates = torch.as_tensor(some * np.array([columns / width, rows / height]), device=self.device)
            labels = torch.ones(len(some), 1, dtype=torch.int, device=self.device)
            sparse, _ = self.sam.prompt_encoder(points=(coordinates[:, None], labels), boxes=None, masks=None)
            yield some, sparse
