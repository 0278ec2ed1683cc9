"""A small SAM 2 with random weights, for the package sam2; and its decoder's parts without the package, with weights made from names."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

from samdiff.pipeline.point_models.sam2_build import HieraConfig, build_sam2

NEEDS = "needs the package of the extra sam2: pip install 'samdiff[sam2]'"
POINTS = np.array([[100.0, 700.0], [512.0, 512.0], [900.5, 3.25]], np.float32)
TINY = HieraConfig(width=16, heads=1, stages=(1, 1, 1, 1), global_blocks=(), background=(7, 7))


def tiny_sam2() -> nn.Module:
    """4.5 M parameters. Its last layers are scaled, for plain random weights give no stable mask."""
    pytest.importorskip("sam2.modeling.sam2_base", reason=NEEDS)
    torch.manual_seed(0)
    model = build_sam2(TINY)
    for head in model.sam_mask_decoder.output_hypernetworks_mlps:
        head.layers[-1].weight.mul_(60)
        head.layers[-1].bias.mul_(60)
    model.sam_mask_decoder.iou_prediction_head.layers[-1].weight.mul_(30)
    return model


def decoder_without_package() -> SimpleNamespace:
    """SAM 2's decoder and prompt encoder made of segment-anything's classes, which have the same parts; only the forward pass differs."""
    prompts = PromptEncoder(embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(
        transformer_dim=256, transformer=transformer, num_multimask_outputs=3, iou_head_depth=3, iou_head_hidden_dim=256
    )
    decoder.obj_score_token = nn.Embedding(1, 256)
    decoder.pred_obj_scores = decoder.use_high_res_features = True
    decoder.iou_prediction_head.sigmoid_output = True
    model = SimpleNamespace(mask_decoder=decoder, prompt_encoder=prompts)
    fill(model)
    return model


def fill(model: SimpleNamespace) -> None:
    """Weights that depend on their names and shapes alone; both packages' names of the transformer's MLP give the same."""
    for part, module in (("decoder", model.mask_decoder), ("prompts", model.prompt_encoder)):
        for name, tensor in module.state_dict().items():
            known = name.replace("mlp.layers.0", "mlp.lin1").replace("mlp.layers.1", "mlp.lin2")
            values = numbers(f"{part}.{known}", tuple(tensor.shape))
            if tensor.ndim > 1 and "token" not in known and "embed" not in known and "gaussian" not in known:
                values /= np.sqrt(np.prod(tensor.shape[1:]))
            elif tensor.ndim == 1:
                values *= 0.1
            tensor.copy_(torch.from_numpy(values))


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of a name: float32 of a shape."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def image_maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embedding [1, 256, 64, 64] and the finer maps [1, 64, 128, 128], [1, 32, 256, 256]."""
    shapes = {"embedding": (1, 256, 64, 64), "finer": (1, 64, 128, 128), "finest": (1, 32, 256, 256)}
    embedding, finer, finest = (torch.from_numpy(numbers(name, shape)) for name, shape in shapes.items())
    return embedding, finer, finest
