"""`--compile` on a CPU: a small SAM with random weights, compiled by PyTorch's own compiler, has the masks of the same code uncompiled."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from samdiff.pipeline.masks.generator import MaskGenerator

SIDE, CHANNELS = 256, 32


def small_sam() -> Sam:
    """SAM's own modules: 16 x 16 image tokens of 32 channels, one block."""
    torch.manual_seed(0)
    tokens = SIDE // 16
    encoder = ImageEncoderViT(
        depth=1,
        embed_dim=32,
        img_size=SIDE,
        mlp_ratio=2,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        num_heads=2,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[0],
        window_size=0,
        out_chans=CHANNELS,
    )
    prompts = PromptEncoder(
        embed_dim=CHANNELS, image_embedding_size=(tokens, tokens), input_image_size=(SIDE, SIDE), mask_in_chans=4
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=64, num_heads=2)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=CHANNELS, iou_head_hidden_dim=32)
    model = Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)
    return model.eval()


@pytest.mark.slow
def test_compiled_masks_are_those_of_the_same_code():
    """Static shapes in both; two sizes of images, which share the compiled code."""
    model, images = small_sam(), [np.random.default_rng(k).integers(0, 255, (60 + 20 * k, 90, 3), np.uint8) for k in range(2)]
    anything = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0, "points_per_side": 5}
    results = []
    for compile_ in (False, True):
        engine = (generator := MaskGenerator(model, mode="fast", compile=compile_, **anything)).engine
        engine.settings = replace(engine.settings, compile=True)  # so that padding is not merged either
        engine.static, engine.chunk, engine.decoder.pixel_batch = True, 8, 8  # as on CUDA
        results.append(list(generator.generate_batch(images)))
    expected, compiled = results
    assert [len(table) for table in compiled] == [len(table) for table in expected]
    assert sum(map(len, expected)) > 20
    for ours, theirs in zip(compiled, expected, strict=True):
        np.testing.assert_allclose(np.sort(ours.predicted_iou), np.sort(theirs.predicted_iou), atol=1e-4)
        assert abs(int(ours.area.sum()) - int(theirs.area.sum())) <= 0.002 * theirs.area.sum()
