"""Images as Python callers have them: every layout of a tensor there and back, and what segmenters take."""

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff import MaskGenerator
from samdiff.errors import ImageError
from samdiff.pipeline.images.given import layout_hint, rgb_pixels, split_tensor


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (1, 5, 7), (5, 7, 4), (2, 3, 5, 7), (2, 5, 7, 1), (3, 4, 4), (4, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32, torch.bfloat16])
def test_tensors_there_and_back(shape, dtype):
    """The arrays are [H, W] or [H, W, C]; restoring them gives the tensor, its layout, dtype and device."""
    tensor = torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)
    arrays, layout = split_tensor(tensor)
    assert len(arrays) == (shape[0] if len(shape) == 4 else 1)
    assert all(array.ndim == 2 or array.shape[-1] in (1, 3, 4) for array in arrays)
    if len(shape) > 2 and shape[-3] in (1, 3, 4):
        np.testing.assert_array_equal(arrays[0][..., 0], np.asarray(tensor.reshape(-1, *shape[-3:])[0, 0].to(torch.float32)))
    back = layout.restore(arrays)
    assert (back.dtype, back.shape, back.device) == (tensor.dtype, tensor.shape, tensor.device)
    assert torch.equal(back.float(), tensor.float())


def test_hints():
    assert "image.transpose(1, 2, 0)" in layout_hint((3, 20, 30))
    assert "batch" in layout_hint((1, 20, 30, 3))
    assert layout_hint((20, 30, 3)) == layout_hint((3, 20, 3)) == layout_hint((7, 20, 30)) == layout_hint((5,)) == ""


def test_what_segmenters_take():
    """PIL images of any mode of 8 bits over white, arrays and tensors; all else is one clear error."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for image in (Image.fromarray(pixels), torch.from_numpy(pixels), torch.from_numpy(pixels).permute(2, 0, 1), pixels):
        np.testing.assert_array_equal(rgb_pixels(image), pixels)
    clear = Image.fromarray(np.dstack([pixels, np.where(np.arange(7) < 3, 0, 255)[None].repeat(5, 0).astype(np.uint8)]))
    np.testing.assert_array_equal(rgb_pixels(clear), np.where((np.arange(7) < 3)[None, :, None], 255, pixels))
    assert rgb_pixels(Image.new("P", (2, 3))).shape == (3, 2, 3)
    for wrong, message in (
        (pixels.transpose(2, 0, 1), "looks like channels first"),
        (pixels / 255, r"got float64 \[5, 7, 3\]"),
        (pixels[None], "looks like a batch"),
        (torch.zeros(2, 3, 5, 7, dtype=torch.uint8), r"got a batch \[2, 3, 5, 7\]; use generate_batch"),
        (Image.new("I;16", (2, 2)), "a PIL image of mode I;16"),
        (None, "got NoneType"),
    ):
        with pytest.raises(ImageError, match=message):
            rgb_pixels(wrong)


@pytest.mark.weights
def test_masks_of_a_file(mobile_sam, tmp_path):
    """A file gives the masks of its pixels; a folder of two images is refused."""
    pixels = np.full((48, 64, 3), 20, np.uint8)
    pixels[10:40, 15:50] = (230, 60, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    generator = MaskGenerator(mobile_sam, points_per_side=1)
    table, of_file = generator.generate_batch([pixels, tmp_path / "a.png"])
    assert len(table) == len(of_file) > 0
    for one, two in zip(table.counts, of_file.counts, strict=True):
        np.testing.assert_array_equal(one, two)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="expected one image, got 2"):
        generator.masks(tmp_path)
