"""Comparison sheets: crops in their own shape, LR by nearest neighbour, the colour bar, labels inside their cells, sizes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from samdiff.cli import main
from samdiff.errors import ConfigError
from samdiff.model.inference.image_io import open_image, save_image
from samdiff.model.sheets.comparison import comparison, enlarged_lr
from samdiff.model.sheets.contact_sheet import colour_map, contact_sheet, value_bar

MARGIN, TOP = 8, 8 + 18 * 2  # of a cell: pixels beside the panel, pixels of two lines of text above it


def dark(*shape: int) -> np.ndarray:
    """Noise without white, so that every white pixel is the sheet's."""
    return np.random.default_rng(sum(shape)).integers(0, 200, shape, dtype=np.uint8)


@pytest.mark.parametrize("size", [(120, 40), (40, 120), (30, 30)])
def test_a_crop_has_its_own_shape_and_no_white_bands(size):
    hr = dark(160, 240, 3)
    sheet = comparison([("a", hr)], hr, [(20, 10, *size)], differences=False, width=240)
    whole, height = TOP + 160 + MARGIN, 6 + round(size[1] * 234 / size[0])
    assert sheet.shape == (whole + TOP + height + MARGIN, 2 * 256, 3)
    for left in (MARGIN, 256 + MARGIN):
        panel = sheet[whole + TOP : whole + TOP + height, left : left + 240]
        assert (panel < 255).any(axis=2).all()
        assert (panel[:3] == (230, 60, 40)).all()
        assert (panel[:, -3:] == (230, 60, 40)).all()


def test_a_very_tall_crop_keeps_its_shape_in_a_narrower_panel():
    hr = dark(400, 40, 3)
    sheet = comparison([("a", hr)], None, [(0, 0, 10, 400)], width=80)
    painted = (sheet[-MARGIN - 300 : -MARGIN, MARGIN : MARGIN + 80] < 255).any(axis=2)
    assert sheet.shape[0] == 2 * (TOP + 4 * 80 + MARGIN)
    assert painted[:, :14].all()
    assert not painted[:, 16:].any()


def test_lr_is_enlarged_by_nearest_neighbour_and_cropped_at_the_same_place():
    hr, lr = dark(60, 80, 3), dark(15, 20, 3)
    without = comparison([("a", hr)], hr, [(8, 20, 37, 20)], width=80)
    sheet = comparison([("a", hr)], hr, [(8, 20, 37, 20)], width=80, lr=lr)
    expected = np.kron(lr, np.ones((4, 4, 1), np.uint8))
    panel = sheet[TOP : TOP + 60, MARGIN : MARGIN + 80]
    outside = np.ones((60, 80), bool)
    outside[20:40, 8:45] = False
    np.testing.assert_array_equal(panel[outside], expected[outside])
    # 37 pixels on 74: each twice
    crop = sheet[2 * TOP + 60 + MARGIN + 3 :, MARGIN + 3 :][:40, :74]
    np.testing.assert_array_equal(crop, np.kron(expected[20:40, 8:45], np.ones((2, 2, 1), np.uint8)))
    np.testing.assert_array_equal(sheet[:, 96:], without)  # the other panels stay as they are
    assert (sheet[-60 - MARGIN :, :96] == 255).all()  # LR has no difference map


def test_lr_whose_size_was_rounded_up():
    """MATLAB's LR of 50 x 41 at x4 has 13 x 11 pixels; the overhang is cut."""
    lr = dark(11, 13)
    result = enlarged_lr(lr, 41, 50)
    assert result.shape == (41, 50, 3)
    np.testing.assert_array_equal(result, np.kron(lr, np.ones((4, 4), np.uint8))[:41, :50, None].repeat(3, axis=2))


@pytest.mark.parametrize("size", [(15, 21), (60, 80), (12, 16), (1, 1), (15, 40)])
def test_lr_of_no_scale_is_an_error(size):
    with pytest.raises(ConfigError) as error:
        comparison([("a", dark(60, 80, 3))], None, [], lr=dark(*size, 3))
    assert str(error.value) == (
        "--lr: expected the LR of the images of 80 x 60 pixels, which is one of 40 x 30 (x2), 27 x 20 (x3), 20 x 15 (x4), "
        f"10 x 8 (x8); got {size[1]} x {size[0]}"
    )


def test_lr_that_fits_several_scales_is_an_error():
    """5 x 5 can be made of 2 x 2 at x3 and at x4."""
    with pytest.raises(ConfigError, match=r"--lr: 2 x 2 pixels can be the LR of 5 x 5 at x3, x4; expected a size that fits"):
        enlarged_lr(dark(2, 2), 5, 5)


def test_the_difference_row_ends_with_a_colour_bar():
    """Its colours are those of the maps, its ends are labelled; 90 levels at one pixel in ten set the common scale."""
    hr = dark(60, 240, 3)
    image = hr.copy()
    image[:, ::10] += 50
    sheet = comparison([("a", image)], hr, [(0, 0, 20, 20)], width=240)
    cell = sheet[-MARGIN - 60 :, 256:]
    np.testing.assert_array_equal(cell[0, MARGIN : MARGIN + 240], colour_map(np.linspace(0, 50, 240)[None], 50.0)[0])
    assert (cell[:16, MARGIN : MARGIN + 240] == cell[0, MARGIN : MARGIN + 240]).all()
    labels = cell[16:34, MARGIN : MARGIN + 240]
    for part in (labels[:, :10], labels[:, 105:135], labels[:, -18:]):
        assert (part < 100).any()
    difference = sheet[-MARGIN - 60 : -MARGIN, MARGIN : MARGIN + 240]
    assert tuple(difference[30, 10]) == tuple(cell[0, MARGIN + 239])
    assert tuple(difference[30, 11]) == tuple(cell[0, MARGIN])
    assert (sheet[-MARGIN - 60 - TOP : -MARGIN - 60, 256:] < 100).any()  # the unit


def test_a_narrow_colour_bar_leaves_the_middle_out():
    assert value_bar(255, 32).shape == (34, 32, 3)
    assert (value_bar(255, 240)[16:, 100:140] < 100).any()
    assert not (value_bar(255, 70)[16:, 25:45] < 100).any()


@pytest.mark.parametrize(
    "label", ["m" * 300, "a medium label, of 40 characters or so", "caf\udce9\n\x1b[31m" * 20, "日本語" * 30]
)
@pytest.mark.parametrize("width", [32, 120])
def test_labels_stay_in_their_cell(label, width):
    sheet = comparison([(label, dark(60, 80, 3))] * 2, dark(60, 80, 3), [], width=width)
    for cell in range(3):
        left = cell * (width + 2 * MARGIN)
        for side in (sheet[:, left : left + MARGIN], sheet[:, left + MARGIN + width : left + 2 * MARGIN + width]):
            assert (side == 255).all()
        assert (sheet[:40, left : left + width + 2 * MARGIN] < 100).any()


def test_a_label_that_is_a_little_too_long_is_drawn_smaller():
    """Nothing of it is cut: each letter changes the image."""
    panel = dark(20, 170, 3)
    texts = ["27.41 dB, SSIM 0.8312, x 1", "27.41 dB, SSIM 0.8312, x 7", "27.47 dB, SSIM 0.8312, x 1"]
    sheets = [contact_sheet([(text, panel)], 1, width=140) for text in texts]
    assert not np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])


def test_errors_are_printable():
    with pytest.raises(ConfigError, match=r"first is 8 x 8, caf\\xe9\\x1b is 8 x 9; compare"):
        comparison([("first", dark(8, 8, 3)), ("caf\udce9\x1b", dark(9, 8, 3))], None, [])


def test_the_command_with_lr(tmp_path, monkeypatch, capsys):
    """An image labelled HR is measured like any other; an HR that is far larger is refused; the input is never replaced."""
    monkeypatch.chdir(tmp_path)
    for name, size in {"hr.png": (83, 62), "a.png": (80, 60), "lr.png": (20, 15), "big.png": (88, 60)}.items():
        save_image(dark(size[1], size[0], 3), tmp_path / name)

    def samdiff(*words: str) -> None:
        main(["compare", "a.png", "--metrics", "off", "--width", "80", "--crop", "8,8,40,20", *words])

    with pytest.raises(SystemExit, match="0"):
        samdiff("--reference", "hr.png", "--lr", "lr.png", "-o", "sheet.png")
    sheet = open_image(tmp_path / "sheet.png")
    assert sheet.shape[1] == 3 * 96
    lr = open_image(tmp_path / "lr.png")
    np.testing.assert_array_equal(
        sheet[TOP + 40 : TOP + 60, MARGIN : MARGIN + 80], np.kron(lr[10:], np.ones((4, 4, 1), np.uint8))
    )
    for words, message in {
        (
            "--reference",
            "big.png",
        ): "--reference: expected the HR of images of 80 x 60 pixels, at most 7 larger per side, got 88 x 60",
        ("--lr", "hr.png"): "got 83 x 62",
        ("--width", "100000000"): "less than or equal to 4096",
        ("--lr", "lr.png", "-o", "lr.png", "--overwrite"): "lr.png",
    }.items():
        with pytest.raises(SystemExit) as ended:
            samdiff(*words)
        assert ended.value.code
        assert message in capsys.readouterr().err
    np.testing.assert_array_equal(open_image(tmp_path / "lr.png"), lr)
