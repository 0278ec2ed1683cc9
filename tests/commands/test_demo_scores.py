"""What the demo prints and writes above its images."""

import numpy as np

from samdiff.commands.demo_steps import CROP_WIDTH, DemoConfig, crop_panels, scores_of, whole_sheet
from samdiff.model.checkpoints.format import SHIPPED, config_in, load_checkpoint
from samdiff.model.config import load_config


def test_the_demo_trains_without_more_weights():
    """Its model is fine-tuned from the shipped flow, whose perceptual loss would need a download and far more time."""
    shipped = config_in(load_checkpoint(SHIPPED), "shipped")
    assert shipped.loss.perceptual != "none"
    tuned = load_config(sets=DemoConfig().sets, model=shipped)
    assert (tuned.loss.perceptual, tuned.diffusion, tuned.model) == ("none", shipped.diffusion, shipped.model)


def test_scores_in_their_order():
    """PSNR of one grey level in 16 of BT.601 is a formula; more metrics get (image, truth) and come behind."""
    truth = np.full((24, 24, 3), 100, np.uint8)
    image = truth + np.uint8(10)
    change = 10 * (65.481 + 128.553 + 24.966) / 255
    seen = []
    result = scores_of(image, truth, {"lpips": lambda a, b: seen.append((a, b)) or 0.25, "dists": lambda *_: 0.5})
    assert result[0] == f"{20 * np.log10(255 / change):.2f} dB"
    assert result[1].startswith("SSIM 0.9")
    assert result[2:] == ["LPIPS 0.2500", "DISTS 0.5000"]
    assert seen[0][0] is image
    assert seen[0][1] is truth


def test_the_row_of_crops():
    """LR by nearest neighbour, bicubic, both models and HR at one place, with labels of one form; LPIPS where it was measured."""
    truth = np.random.default_rng(0).integers(0, 200, (48, 64, 3), np.uint8)
    results = {
        name: np.full_like(truth, value)
        for name, value in {"bicubic": 1, "RRDB": 2, "diffusion": 3, "shipped model": 4}.items()
    }
    scores = {name: ["30.00 dB", "SSIM 0.9000", "LPIPS 0.1000", "DISTS 0.2000"] for name in results}
    scores["bicubic"] = ["28.00 dB", "SSIM 0.8000"]
    lr = truth[::4, ::4]
    panels = crop_panels(lr, results, truth, box=(8, 12, 16, 16), scores=scores)
    assert [caption for caption, _ in panels] == [
        "LR, nearest neighbour\n16 x 12",
        "bicubic\nY-PSNR 28.00 dB",
        "shipped model\nY-PSNR 30.00 dB  LPIPS 0.1000",
        "trained by this demo\nY-PSNR 30.00 dB  LPIPS 0.1000",
        "HR\n64 x 48",
    ]
    assert {image.shape for _, image in panels} == {(CROP_WIDTH, CROP_WIDTH, 3)}
    inner = [image[3:-3, 3:-3] for _, image in panels]
    assert [int(image.max()) for image in inner[1:4]] == [1, 4, 3]
    np.testing.assert_array_equal(np.unique(inner[0].reshape(-1, 3), axis=0), np.unique(lr[3:7, 2:6].reshape(-1, 3), axis=0))
    np.testing.assert_array_equal(inner[4][[0, 0, -1], [0, -1, 0]], truth[[12, 12, 27], [8, 23, 8]])
    sheet = whole_sheet([("a", truth)] * 8, panels)
    assert sheet.shape[1] == 4 * 336 >= 5 * (CROP_WIDTH + 16)
    assert (sheet[-8:] == 255).all()
