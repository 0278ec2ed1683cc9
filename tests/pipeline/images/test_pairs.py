"""Which LR file belongs to which HR file: names as people give them, and sizes."""

import unicodedata

import numpy as np
import pytest

from samdiff.pipeline.images.pairs import hr_stem, on_common_grid, pair_names, why_not_lr


def nfd(text):
    return unicodedata.normalize("NFD", text)


def test_the_same_name_goes_first():
    """`castle_x4` is a name and an ending; what pairs most files is meant."""
    both = ["castle.png", "castle_x4.png"]
    assert pair_names(both, both, 4)[0] == {name: name for name in both}
    assert pair_names(["1.png", "1x4.png"], ["1x4.png", "1x4x4.png"], 4)[0] == {"1.png": "1x4.png", "1x4.png": "1x4x4.png"}
    assert pair_names(["1.png"], ["1.png", "1x4.png"], 4)[0] == {"1.png": "1.png"}
    pairs, without = pair_names(["1x4.png", "1.png"], ["1x4.png"], 4)
    assert pairs == {"1x4.png": "1x4.png"}  # one LR file is never that of two HR files
    assert "no LR file" in without["1.png"]


@pytest.mark.parametrize("stem", ["Übung", "café", "パ", "plain"])
def test_names_are_equal_in_any_normal_form(stem):
    for high, low in ((nfd(stem), stem), (stem, nfd(stem)), (nfd(stem), f"{stem}_x4"), (f"a/{nfd(stem)}", f"a/{stem}")):
        assert pair_names([f"{high}.png"], [f"{low}.png", "other.png"], 4)[0] == {f"{high}.png": f"{low}.png"}
    both = [f"{nfd('é')}.png", "é.png"]  # two files on Linux: each finds its own
    assert pair_names(both, both, 4)[0] == {name: name for name in both}


@pytest.mark.parametrize(
    "low",
    [
        "0801x4",
        "0801_x4",
        "0801-x4",
        "0801 x4",
        "0801_LRBI_x4",
        "0801_LR",
        "0801_LRx4",
        "0801_LR_x4",
        "0801LR",
        "0801_lq",
        "0801x4m",
    ]
    + ["0801_x4_LR", "0801_bicubic_x4", "0801_bicx4", "0801_4x", "0801x4w1", "0801_X4"],
)
def test_endings(low):
    assert pair_names(["0801.png"], ["0802x4.png", f"{low}.png"], 4)[0] == {"0801.png": f"{low}.png"}
    assert pair_names(["0801_HR.png"], [f"{low}.png"], 4)[0] == {"0801_HR.png": f"{low}.png"}


def test_endings_of_another_scale_stay():
    for low in ("0801x2", "0801x48", "0801_LRBI_x3", "08014"):
        assert pair_names(["0801.png"], [f"{low}.png"], 4)[0] == {}, low
    assert hr_stem("baby_HR_x4.png") == hr_stem("baby_GT.png") == "baby"


@pytest.mark.parametrize(
    ("low", "high", "fits"),
    [((64, 64), (256, 256), True), ((63, 63), (256, 256), False), ((65, 64), (256, 256), False), ((80, 120), (321, 481), True)]
    + [((81, 121), (321, 481), True), ((81, 120), (321, 481), True), ((82, 121), (321, 481), False), ((1, 1), (3, 40), False)],
)
def test_sizes(low, high, fits):
    """Rounded down or up, nothing else."""
    assert (why_not_lr(low, high, 4) is None) == fits


def test_both_are_cut_on_one_grid():
    """LR pixel (i, j) lies on the same HR block before and after."""
    high, low = np.arange(321 * 481).reshape(321, 481), np.arange(81 * 121).reshape(81, 121)
    of_hr, of_lr = on_common_grid(high.shape, 4)
    assert high[of_hr].shape == (320, 480)
    assert low[of_lr].shape == (80, 120)
    assert high[of_hr][4 * 7, 4 * 9] == high[28, 36]
    assert low[of_lr][7, 9] == low[7, 9]
