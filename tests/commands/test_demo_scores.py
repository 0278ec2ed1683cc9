"""What the demo prints and writes above its images."""

import numpy as np

from samdiff.commands.demo_steps import scores_of


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
