"""SAM 2's image model by name, built from the classes of the package sam2 in plain Python: no YAML, no video parts.

Sizes as in the package's `configs/sam2.1/*.yaml`; 2.0 and 2.1 have the same image model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ...errors import missing_package

if TYPE_CHECKING:
    from sam2.modeling.sam2_base import SAM2Base

IMAGE_SIDE = 1024
_DIM = 256


@dataclass(frozen=True)
class HieraConfig:
    """The sizes of a Hiera encoder."""

    width: int
    """Channels of the first stage; each stage doubles them."""
    heads: int
    """Attention heads of the first stage."""
    stages: tuple[int, int, int, int]
    """Blocks of each stage."""
    global_blocks: tuple[int, ...]
    """Blocks that attend to the whole image."""
    background: tuple[int, int]
    """Size of the learned position embedding of the whole image."""
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    """Side of the attention windows of each stage."""


SIZES = {
    "t": HieraConfig(width=96, heads=1, stages=(1, 2, 7, 2), global_blocks=(5, 7, 9), background=(7, 7)),
    "s": HieraConfig(width=96, heads=1, stages=(1, 2, 11, 2), global_blocks=(7, 10, 13), background=(7, 7)),
    "b+": HieraConfig(width=112, heads=2, stages=(2, 3, 16, 3), global_blocks=(12, 16, 20), background=(14, 14)),
    "l": HieraConfig(
        width=144, heads=2, stages=(2, 6, 36, 4), global_blocks=(23, 33, 43), background=(7, 7), windows=(8, 4, 16, 8)
    ),
}
"""Size -> encoder; the part of a segmenter's name after the underscore."""


def build_sam2(config: HieraConfig) -> SAM2Base:
    """The image model with random weights, in eval mode, without gradients. Memory attention and memory encoder are left out.

    Raises:
        MissingPackageError: the package sam2 is not installed.
    """
    try:
        from sam2.modeling.backbones.hieradet import Hiera
        from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
        from sam2.modeling.position_encoding import PositionEmbeddingSine
        from sam2.modeling.sam2_base import SAM2Base
    except ImportError as error:
        raise missing_package(error, extra="sam2", what="SAM 2") from error
    trunk = Hiera(
        embed_dim=config.width,
        num_heads=config.heads,
        stages=config.stages,
        global_att_blocks=config.global_blocks,
        window_pos_embed_bkg_spatial_size=config.background,
        window_spec=config.windows,
    )
    neck = FpnNeck(
        PositionEmbeddingSine(num_pos_feats=_DIM, normalize=True, scale=None, temperature=10000),
        d_model=_DIM,
        backbone_channel_list=[8 * config.width, 4 * config.width, 2 * config.width, config.width],
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    model = SAM2Base(
        ImageEncoder(trunk, neck, scalp=1),
        memory_attention=nn.Identity(),
        memory_encoder=nn.Identity(),
        image_size=IMAGE_SIDE,
        backbone_stride=16,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )
    return model.eval().requires_grad_(False)
