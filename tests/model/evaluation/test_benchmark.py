"""Benchmark folders as they are downloaded, images that are too small, and where LR came from."""

import hashlib
import json
import math
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from samdiff.cli import main
from samdiff.errors import ConfigError, ImageError
from samdiff.model.evaluate_config import EvaluateConfig
from samdiff.model.evaluation.benchmark import LrRecipe, Pair, benchmark_files, read_benchmark_folder, read_pairs
from samdiff.model.evaluation.benchmark_layout import BICUBIC, benchmark_layout
from samdiff.model.evaluation.evaluate import Row, metrics_of, summarise, undefined_metrics
from samdiff.model.evaluation.metrics import psnr_y, ssim_y
from samdiff.model.inference.image_io import save_image
from samdiff.model.sheets.comparison import comparison
from samdiff.model.training.validation import benchmark_of, score
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.degrade.recipes import degrade

from ...helpers.models import write_model
from ...helpers.zoo import photo

LAYOUTS = {
    "good": ("HR/{}.png", "LRx4/{}.png"),
    "upper": ("HR/{}.png", "LRX4/{}.png"),
    "underscore": ("hr/{}.png", "lr_x4/{}.png"),
    "plain LR": ("GT/{}.png", "LR/{}.png"),
    "edsr": ("HR/{}.png", "LR_bicubic/X4/{}x4.png"),
    "basicsr": ("GTmod12/{}.png", "LRbicx4/{}.png"),
    "rcan": ("HR/x4/{}_HR_x4.png", "LRBI/x4/{}_LRBI_x4.png"),
    "atd": ("HR/Set5/x4/{}.png", "LR/LRBI/Set5/x4/{}.png"),
    "div2k": ("DIV2K_valid_HR/{}.png", "DIV2K_valid_LR_bicubic/X4/{}x4.png"),
    "eugenesiow": ("Set5_HR/{}.png", "Set5_LR_x4/{}.png"),
    "srf": ("img_{}_SRF_4_HR.png", "img_{}_SRF_4_LR.png"),
    "srf folder": ("image_SRF_4/img_{}_SRF_4_HR.png", "image_SRF_4/img_{}_SRF_4_LR.png"),
    "one root": ("Set5/HR/{}.png", "Set5/LR_bicubic/X4/{}x4.png"),
    "HR at the top": ("{}.png", "LRx4/{}.png"),
}


def write_layout(folder, layout, scales=(4,)):
    """Two HR images with LR that is plainly not bicubic (every fourth pixel), and LR of other scales."""
    for k in range(2):
        hr = photo(48, 64, k)
        save_image(hr, folder / layout[0].format(k))
        for scale in scales:
            name = layout[1].format(k).replace("x4", f"x{scale}").replace("X4", f"X{scale}").replace("SRF_4", f"SRF_{scale}")
            save_image(np.ascontiguousarray(hr[::scale, ::scale]), folder / name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    """Existing LR is used unchanged, and its folder is reported."""
    write_layout(tmp_path / "b", LAYOUTS[name])
    result = read_benchmark_folder(tmp_path / "b", 4)
    assert len(result.pairs) == 2
    assert result.lr_from != BICUBIC
    assert result.skipped == {}
    for k, pair in enumerate(result.pairs):
        np.testing.assert_array_equal(pair.hr, photo(48, 64, k))
        np.testing.assert_array_equal(pair.lr, pair.hr[::4, ::4])
        assert pair.name.replace("img_", "").replace("_SRF_4", "") == str(k)


@pytest.mark.parametrize("name", ["good", "edsr", "div2k"])
def test_lr_of_another_scale_is_not_taken(name, tmp_path, caplog):
    """With LR of the right scale it is reported as not read; alone, LR is made from HR, which is reported."""
    write_layout(tmp_path / "b", LAYOUTS[name], scales=(2, 4))
    assert all(len(pair.lr) == 12 for pair in read_pairs(tmp_path / "b", 4))
    assert "not read: 2 images" in caplog.text
    write_layout(tmp_path / "c", LAYOUTS[name], scales=(2,))
    result = read_benchmark_folder(tmp_path / "c", 4)
    assert result.lr_from == BICUBIC
    np.testing.assert_array_equal(result.pairs[0].lr, imresize(result.pairs[0].hr, 0.25))


def test_the_other_methods_of_selfexsr_are_not_scored():
    """Its folders hold HR, LR and the results of others."""
    names = [f"image_SRF_{s}/img_001_SRF_{s}_{what}.png" for s in (2, 4) for what in ("HR", "LR", "bicubic", "SRCNN")]
    layout = benchmark_layout(names, 4)
    assert layout.hr == ("image_SRF_4/img_001_SRF_4_HR.png",)
    assert layout.lr == ("image_SRF_4/img_001_SRF_4_LR.png",)
    assert "6 images" in layout.unread


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["Set5/HR/a.png", "Set14/HR/a.png"], "several"),
        (["Set5/a.png", "Set14/a.png"], "folders of images"),
        (["LRx4/a.png"], "LR only"),
        (["HR/a.png", "LR_unknown/X4/a.png", "LR_difficult/X4/a.png"], "several possible folders of LR"),
    ],
)
def test_what_could_mean_two_things_is_refused(names, says):
    with pytest.raises(ConfigError, match=says):
        benchmark_layout(names, 4)


def test_bicubic_goes_before_other_kinds_and_the_cut_before_others():
    names = ["HR/a.png", "LR_unknown/X4/a.png", "LR_bicubic/X4/a.png", "GTmod2/b.png", "GTmod4/b.png"]
    assert benchmark_layout(names[:3], 4).lr_from == "LR_bicubic/X4"
    assert benchmark_layout(names[3:], 4).hr == ("GTmod4/b.png",)


@pytest.mark.parametrize(("low", "fits"), [(16, True), (15, False), (17, False)])
def test_lr_of_another_size_is_refused(low, fits, tmp_path):
    save_image(photo(64, 64, 0), tmp_path / "b" / "HR" / "a.png")
    save_image(photo(low, low, 0), tmp_path / "b" / "LRx4" / "a.png")
    if fits:
        read_pairs(tmp_path / "b", 4)
    else:
        with pytest.raises(ConfigError, match=f"{low} x {low} pixels, expected 16 x 16"):
            read_pairs(tmp_path / "b", 4)


def test_lr_of_a_size_rounded_up_lies_on_the_grid_of_hr(tmp_path):
    """As MATLAB's imresize leaves 321 x 481: what is left over is cut, nothing moves."""
    hr, lr = photo(35, 42, 0), photo(9, 11, 1)
    save_image(hr, tmp_path / "b" / "HR" / "a.png")
    save_image(lr, tmp_path / "b" / "LRx4" / "a.png")
    (pair,) = read_pairs(tmp_path / "b", 4)
    np.testing.assert_array_equal(pair.hr, hr[:32, :40])
    np.testing.assert_array_equal(pair.lr, lr[:8, :10])


def test_names_in_other_normal_forms(tmp_path):
    save_image(photo(32, 32, 0), tmp_path / "b" / "HR" / f"{unicodedata.normalize('NFD', 'Übung')}.png")
    save_image(photo(8, 8, 1), tmp_path / "b" / "LRx4" / "Übung.png")
    assert len(read_pairs(tmp_path / "b", 4)[0].lr) == 8


def test_one_image_that_cannot_be_used_is_listed(tmp_path):
    """The others are scored; `read_pairs`, which lists nothing, refuses."""
    save_image(photo(32, 32, 0), tmp_path / "b" / "a.png")
    save_image(photo(3, 40, 0), tmp_path / "b" / "strip.png")
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    (tmp_path / "b" / "phone.jxl").write_bytes(b"x")
    result = read_benchmark_folder(tmp_path / "b", 4)
    assert [pair.name for pair in result.pairs] == ["a"]
    assert result.skipped.keys() == {"strip.png", "broken.png", "phone.jxl"}
    assert "40 x 3 pixels, expected at least 4 x 4" in result.skipped["strip.png"]
    assert not [reason for reason in result.skipped.values() if str(tmp_path) in reason], "the list names the image already"
    with pytest.raises(ImageError, match=r"phone\.jxl: JPEG XL, a format"):
        read_pairs(tmp_path / "b", 4)
    assert {path.name for path in benchmark_files(tmp_path / "b")} >= {"a.png", "broken.png"}


@pytest.mark.parametrize("side", [4, 8, 16, 18, 19, 64])
def test_metrics_of_tiny_images(side):
    """NaN exactly where a reason is given, at scale 4."""
    pair = Pair("a", photo(side // 4, side // 4, 1), photo(side // 4 * 4, side // 4 * 4, 0))
    side = len(pair.hr)
    result = metrics_of(photo(side, side, 2), pair, 4, photo(side, side, 3), {})
    assert {name for name, value in result.items() if math.isnan(value)} == {name for name, _ in undefined_metrics(pair, 4)}
    assert ("ssim_y" in dict(undefined_metrics(pair, 4))) == (side - 8 < 11)
    assert ("psnr_y" in dict(undefined_metrics(pair, 4))) == (side <= 8)


def test_means_leave_undefined_metrics_out():
    rows = [Row("b", name, "samdiff", 0, {"ssim_y": value}) for name, value in (("icon", math.nan), ("large", 0.5))]
    assert summarise(rows)["b", "samdiff"]["ssim_y"][0] == 0.5
    assert math.isnan(summarise(rows[:1])["b", "samdiff"]["ssim_y"][0])


def test_validation_on_tiny_tiles_writes_json():
    """JSON has no NaN: the line leaves out what is not defined."""
    pairs = [(photo(4, 4, 0), photo(16, 16, 0))]
    line, _ = score(benchmark_of("held-out", pairs, 4), lambda lr, _: imresize(lr, 4))
    assert json.loads(json.dumps(line, allow_nan=False))["psnr_y"] == round(psnr_y(imresize(pairs[0][0], 4), pairs[0][1], 4), 4)
    assert "ssim_y" not in line
    assert math.isnan(ssim_y(*[photo(16, 16, 0)] * 2, 4))


@pytest.mark.parametrize("side", [7, 16])
def test_sheets_of_tiny_images(side):
    assert comparison([("a", photo(side, side, 0))], photo(side, side, 1), []).ndim == 3


def test_evaluate_lists_small_images_and_says_where_lr_came_from(tmp_path, monkeypatch, capsys):
    """Status 3; the table, the CSV and the JSON are there, names that are not UTF-8 as escapes."""
    monkeypatch.chdir(tmp_path)
    for side, name in ((16, "icon"), (32, "large")):
        save_image(photo(side, side, 0), tmp_path / "b" / f"{name}.png")
    (tmp_path / "b" / "large.png").rename(tmp_path / "b" / "caf\udce9.png")
    model = write_model(tmp_path / "m.safetensors")
    with pytest.raises(SystemExit, match="3"):
        main(["evaluate", "--benchmark", "b", "--checkpoint", str(model), "--steps", "1", "-o", "ev", "--save"])
    reported = capsys.readouterr()
    assert "skipped b/icon: ssim_y needs 11 pixels per side after cropping the border, the image has 16 x 16" in reported.err
    assert f"LR of b: {BICUBIC}" in reported.out
    facts = json.loads((tmp_path / "ev" / "figures.json").read_text())
    assert facts["lr_from"] == {"b": BICUBIC}
    assert facts["pictures"][0]["picture"] == "caf\\xe9"
    assert next(row for row in facts["pictures"] if row["picture"] == "icon")["ssim_y"] is None
    assert "caf\\xe9" in (tmp_path / "ev" / "figures.csv").read_text()
    assert f"LR of b: {BICUBIC}" in (tmp_path / "ev" / "table.md").read_text()


@pytest.mark.parametrize("closed_folder", ["LRx4", "more"])
def test_a_folder_that_cannot_be_read(closed_folder, tmp_path, monkeypatch):
    """One of LR is an error, or LR would be made; any other is listed."""
    save_image(photo(32, 32, 0), tmp_path / "b" / "HR" / "a.png")
    (tmp_path / "b" / closed_folder).mkdir()
    real = os.scandir

    def closed(path):
        if os.path.basename(path) == closed_folder:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    if closed_folder == "LRx4":
        with pytest.raises(ConfigError, match="LRx4 .folder.: a folder that cannot be read: Permission denied"):
            read_benchmark_folder(tmp_path / "b", 4)
    else:
        assert read_benchmark_folder(tmp_path / "b", 4).skipped.keys() == {"more (folder)"}


def test_blind_lr_is_made_from_hr(tmp_path):
    """Whatever LR there is; one degradation per image and seed, independent of the file's format."""
    write_layout(tmp_path / "b", LAYOUTS["good"])
    (tmp_path / "c").mkdir()
    Image.open(tmp_path / "b/HR/0.png").save(tmp_path / "c/other.bmp")
    Image.open(tmp_path / "b/HR/0.png").convert("L").save(tmp_path / "c/grey.png")
    found = read_benchmark_folder(tmp_path / "b", 4, recipe=LrRecipe("blind", seed=7))
    assert found.lr_from == "made from HR by the blind degradation with seed 7"
    first, second = found.pairs
    digest = hashlib.sha256(first.hr.tobytes()).hexdigest()
    np.testing.assert_array_equal(first.lr, degrade(first.hr, "blind", 4, seed=7, content=digest))
    grey, other = read_benchmark_folder(tmp_path / "c", 4, recipe=LrRecipe("blind", seed=7)).pairs
    np.testing.assert_array_equal(other.lr, first.lr)
    assert grey.hr.shape == (48, 64, 3)
    assert grey.lr.shape == (12, 16, 3)
    assert np.any(read_benchmark_folder(tmp_path / "b", 4, recipe=LrRecipe("blind", seed=8)).pairs[0].lr != first.lr)
    assert np.any(imresize(second.hr, 1 / 4) != second.lr)


def test_evaluate_with_blind_lr(tmp_path, capsys):
    """The degradation and its seed are in the table, in the JSON, and decide whether an evaluation is the same."""
    write_layout(tmp_path / "b", LAYOUTS["good"])
    model = write_model(tmp_path / "m.safetensors")
    command = ["evaluate", "--benchmark", str(tmp_path / "b"), "--checkpoint", str(model), "-o", str(tmp_path / "e")]
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--degradation", "blind", "--degradation-seed", "3"])
    assert "blind degradation with seed 3" in capsys.readouterr().out
    assert "blind degradation with seed 3" in (tmp_path / "e/table.md").read_text()
    assert json.loads((tmp_path / "e/figures.json").read_text())["lr_from"] == {
        "b": "made from HR by the blind degradation with seed 3"
    }


def test_the_seed_needs_the_blind_degradation():
    with pytest.raises(ConfigError, match="degradation_seed: only together with --degradation blind"):
        EvaluateConfig(degradation_seed=3)
