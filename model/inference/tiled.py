"""The two networks on one image of any size: tile by tile, blended at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.noise import BLOCK
from ..diffusion.residual import base_rows
from ..networks.rrdb import RRDB, condition
from ..networks.unet import UNet
from .tile_weights import Tile, Tiling


@dataclass
class TiledPredictor:
    """Predictions of the networks for a whole LR image [1, 3, h, w] in [-1, 1], computed tile by tile."""

    rrdb: RRDB
    unet: UNet
    lr: Tensor
    """On the networks' device."""
    tiling: Tiling
    cache_bytes: int = 1 << 30
    """Bytes of the RRDB's features that are kept between steps; the rest is recomputed."""
    batch: int = 1
    """Tiles per call of the U-Net."""
    on_tiles: Callable[[int], object] = lambda _: None
    """Called with the number of tiles after each call of a network."""

    def __post_init__(self) -> None:
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0
        self._out: Tensor | None = None

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The U-Net's prediction [1, 3 or 4, H, W] for the state x [1, 3, H, W]; the returned tensor is overwritten by the next call."""
        dtype = next(self.unet.parameters()).dtype

        def network(tiles: list[Tile]) -> Tensor:
            x_t = torch.cat([self._part(x, tile, self.tiling.scale) for tile in tiles])
            given = torch.cat([self._condition(tile) for tile in tiles])
            x_t = x_t.to(self.lr.device, dtype, memory_format=torch.channels_last)
            return self.unet(x_t, t.to(self.lr.device).expand(len(tiles)), given)

        self._out = self._blend(network, self._out, x.device)
        return self._out

    def regress(self, device: torch.device, keep: bool = False) -> Tensor:
        """The RRDB's image [1, 3, H, W], not clipped; `keep`: cache the features for `predict`, as far as they fit."""

        def network(tiles: list[Tile]) -> Tensor:
            lr = torch.cat([self._part(self.lr, tile, 1) for tile in tiles])
            maps = self.rrdb.features(lr)
            for number, tile in enumerate(tiles if keep else ()):
                self._keep(tile, [feature_map[number : number + 1] for feature_map in maps])
            return self.rrdb.image(maps[-1], lr)

        return self._blend(network, None, device)

    def log_scale(self, device: torch.device) -> Tensor:
        """log S^ [1, 1, H, W] of the U-Net's scale head."""
        return self._blend(
            lambda tiles: self.unet.log_scale(torch.cat([self._condition(tile) for tile in tiles])), None, device
        )

    def _blend(self, network: Callable[[list[Tile]], Tensor], out: Tensor | None, device: torch.device) -> Tensor:
        return blend_tiles(
            network, self.tiling, size=self.lr.shape[2:], device=device, batch=self.batch, on_tiles=self.on_tiles, out=out
        )

    def _condition(self, tile: Tile) -> Tensor:
        """The U-Net's condition [1, K, h, w] of a tile; the first tiles that fit are cached, none is evicted."""
        kept = self._kept.get(tile.index)
        return self._keep(tile, self.rrdb.features(self._part(self.lr, tile, 1))) if kept is None else kept

    def _keep(self, tile: Tile, maps: list[Tensor]) -> Tensor:
        """The condition from a tile's feature maps, cached if it fits."""
        features = condition(maps).to(next(self.unet.parameters()).dtype)
        size = features.numel() * features.element_size()
        if tile.index not in self._kept and self._kept_bytes + size <= self.cache_bytes:
            self._kept[tile.index] = features
            self._kept_bytes += size
        return features

    def _part(self, x: Tensor, tile: Tile, scale: int) -> Tensor:
        return part_of(x, tile, scale, tiling=self.tiling)


def part_of(x: Tensor, tile: Tile, scale: int, *, tiling: Tiling) -> Tensor:
    """The tile's view of an image [1, C, H, W] that has `scale` pixels per LR pixel."""
    top, left = tile.y_lr * scale, tile.x_lr * scale
    height, width = tiling.rows.size_lr * scale, tiling.columns.size_lr * scale
    return x[:, :, top : top + height, left : left + width]


def blend_tiles(
    network: Callable[[list[Tile]], Tensor],
    tiling: Tiling,
    *,
    size: Sequence[int],
    device: torch.device,
    batch: int,
    on_tiles: Callable[[int], object],
    out: Tensor | None = None,
) -> Tensor:
    """Weighted sum of a network's tiles, always in reading order, so that it does not depend on the batch size.

    Args:
        network: tiles -> their results [B, C, s h, s w].
        tiling: the tiles, which cover the image.
        size: height and width of LR.
        device: of the result.
        batch: tiles per call of the network.
        on_tiles: called with the number of tiles after each call.
        out: [1, C, H, W] that is overwritten; None: a new tensor.
    """
    tiles, scale = tiling.tiles, tiling.scale
    if len(tiles) == 1:
        result = network(tiles).float().to(device)
        on_tiles(1)
        return result
    height, width = (side * scale for side in size)
    for number, group in enumerate(_groups(tiles, batch)):
        for tile, result in zip(group, network(group).float().to(device), strict=True):
            if out is None:
                out = result.new_empty((1, len(result), height, width))
            if number == 0 and tile is group[0]:
                out.zero_()
            weight = torch.from_numpy(tile.weight_y)[:, None] * torch.from_numpy(tile.weight_x)
            part_of(out, tile, scale, tiling=tiling)[0].addcmul_(result, weight.to(device))
        on_tiles(len(group))
    assert out is not None
    return out


def rows_with_base(
    x: Tensor, lr: Tensor, base: Tensor | None, *, factor: int, levels: int, scale: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Bands of rows of x, without padding: views of x, with the same rows of the base image and of the scale of the noise.

    Args:
        x: [1, 3, H, W] with padding.
        lr: [1, 3, h, w]; determines the size without padding.
        base: the base image [1, 3, H, W]; None: the upsampled LR.
        factor: HR pixels per LR pixel.
        levels: see `base_rows`.
        scale: [1, 1, H, W]; None: there is none.
    """
    height, width = (side * factor for side in lr.shape[2:])
    for top in range(0, height, BLOCK):
        bottom = min(top + BLOCK, height)
        given = base_rows(lr, factor, top=top, bottom=bottom, levels=levels) if base is None else base[:, :, top:bottom, :width]
        yield x[:, :, top:bottom, :width], given, None if scale is None else scale[:, :, top:bottom, :width]


def _groups(tiles: list[Tile], size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), size):
        yield tiles[start : start + size]


def count_tiles(total: int, on_progress: Callable[[float], object]) -> Callable[[int], None]:
    """Counts tiles and reports the finished part of all of them."""
    done = 0

    def count(tiles: int) -> None:
        nonlocal done
        done += tiles
        on_progress(done / total)

    return count
