"""LR made blindly, LR that exists already, and which belongs to which image."""

import io
import json
import zipfile

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samdiff import open_store
from samdiff.errors import ConfigError, ImageError
from samdiff.pipeline.degrade.blind import blur_kernel, sinc_kernel
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.pipeline.degrade.recipes import degradation_facts, degrade
from samdiff.pipeline.images.pairs import pair_names
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.storage.local import LocalStore

from ...helpers.zoo import NoMasks, file_of, photo

HR = photo(128, 192)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_blind_is_a_function_of_picture_and_seed(scale):
    """The same bytes again, with any number of threads; others for another image or seed."""
    hr = HR[: 128 // scale * scale, : 192 // scale * scale]
    first = degrade(hr, "blind", scale, content="ab" * 32)
    assert first.shape == (hr.shape[0] // scale, hr.shape[1] // scale, 3)
    assert first.dtype == np.uint8
    before = cv2.getNumThreads()
    for threads in (1, 3):
        cv2.setNumThreads(threads)
        np.testing.assert_array_equal(degrade(hr, "blind", scale, content="ab" * 32), first)
    cv2.setNumThreads(before)
    assert (degrade(hr, "blind", scale, content="ac" * 32) != first).mean() > 0.5
    assert (degrade(hr, "blind", scale, seed=1, content="ab" * 32) != first).mean() > 0.5


def test_blind_moves_nothing():
    """The mean of many degradations of a step edge crosses the middle where the edge is, to a tenth of an LR pixel."""
    hr = np.zeros((256, 256, 3), np.uint8)
    hr[:, 128:] = 255
    for turned in (hr, hr.swapaxes(0, 1).copy()):
        mean = np.mean([degrade(turned, "blind", 4, seed=k) for k in range(40)], axis=0)
        profile = mean.mean(axis=2).mean(axis=0 if turned is hr else 1)
        assert profile[:20].max() < 30 < 225 < profile[-20:].min()
        low, high = profile[31], profile[32]
        place = 31 + (127.5 - low) / (high - low)
        assert abs(place - 31.5) < 0.1


def test_blind_loses_more_than_bicubic_on_average_and_differs_between_pictures():
    """Spread of the strengths: some are nearly clean, most are not."""
    smooth = cv2.GaussianBlur(photo(256, 256), (0, 0), 8)
    clean = imresize(smooth, 1 / 4).astype(float)
    errors = [np.abs(degrade(smooth, "blind", 4, seed=k) - clean).mean() for k in range(30)]
    assert 1 < min(errors) < 7 < 12 < max(errors) < 30


def test_kernels():
    """Sums, symmetry, the Gaussian's second moments, and Bessel's function of another library."""
    gauss = blur_kernel(21, across=2.0, along=1.0, turn=0.5)
    y, x = np.mgrid[:21, :21] - 10
    c, s = np.cos(0.5), np.sin(0.5)
    turn = np.array([[c, -s], [s, c]])
    covariance = turn @ np.diag([4.0, 1.0]) @ turn.T
    found = np.array([[(gauss * a * b).sum() for b in (x, y)] for a in (x, y)])
    np.testing.assert_allclose(found, covariance, atol=0.01)
    r = np.hypot(y, x)
    expected = np.where(r > 0, 2.0 * torch.special.bessel_j1(torch.from_numpy(2.0 * r)).numpy() / np.maximum(r, 1e-9), 2.0)
    np.testing.assert_allclose(sinc_kernel(21, 2.0), expected / expected.sum(), atol=1e-6)
    for kernel in (
        gauss,
        sinc_kernel(9, 1.0),
        blur_kernel(7, across=0.3, along=3.0, turn=-2, beta=2.0),
        blur_kernel(13, across=1, along=2, turn=1, beta=1.5, plateau=True),
    ):
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-7)


def test_degrade_refuses_what_it_cannot_do():
    with pytest.raises(ConfigError, match="multiples of 4, got 127 x 192"):
        degrade(HR[:127], "bicubic", 4)
    with pytest.raises(ConfigError, match="expected bicubic, blind, mtf or kspace, got 'given'"):
        degrade(HR, "given", 4)
    with pytest.raises(ConfigError, match="expected one of bicubic, blind, given, mtf, kspace, got 'blurry'"):
        PrepareConfig(degradation="blurry")
    for stride in (66, 2, 324):
        with pytest.raises(ConfigError, match="stride: expected a multiple of the scale 4 up to the tile's 320"):
            PrepareConfig(stride=stride)


@given(st.lists(st.text("ab09_x", min_size=1, max_size=6), min_size=1, max_size=8, unique=True), st.sampled_from([2, 3, 4, 8]))
def test_files_are_matched_by_name(stems, scale):
    """The same names in any case find themselves, one each."""
    names = [f"{stem}.png" for stem in stems]
    pairs, without = pair_names(names, names, scale)
    assert set(pairs) | set(without) == set(names)
    assert len(set(pairs.values())) == len(pairs)
    plain = [name for name in names if not name.rsplit(".")[0].endswith(("_", "x2", "x3", "x4", "x8"))]
    suffixed = [name.replace(".png", f"x{scale}.png") for name in plain]
    assert pair_names(plain, suffixed, scale) == (dict(zip(plain, suffixed, strict=True)), {})


def test_suffixes_and_folders():
    """DIV2K's, BasicSR's and the benchmarks' ways of naming; the same name in two folders needs the folder."""
    for name in (
        "0801x4.png",
        "X4/0801X4.PNG",
        "deep/0801_x4.jpg",
        "0801_LRBI_x4.png",
        "0801.webp",
        "0801-LR.png",
        "0801LRx4.png",
    ):
        assert pair_names(["HR/0801.png"], ["0802x4.png", name], 4)[0] == {"HR/0801.png": name}, name
    pairs, without = pair_names(["a/1.png", "b/1.png", "c/1.png"], ["a/1x2.png", "b/1.png", "1.png"], 2)
    assert pairs == {"a/1.png": "a/1x2.png", "b/1.png": "b/1.png"}
    assert "3 images are called 1" in without["c/1.png"]
    assert pair_names(["1.png"], ["1.png", "1x2.png"], 2)[0] == {"1.png": "1.png"}  # the same name goes first
    assert "several LR files" in pair_names(["1.png"], ["1_LR.png", "1x2.png"], 2)[1]["1.png"]
    assert pair_names(["1.png"], ["1x2.png"], 4)[1] == {"1.png": "no LR file for it: looked for 1 and 1x4 with any suffix"}
    assert pair_names(["1x4.png"], ["1x4.png"], 4)[0] == {"1x4.png": "1x4.png"}


@pytest.fixture
def hr_folder(tmp_path):
    """Four images of 130 x 99 pixels."""
    folder = tmp_path / "HR"
    folder.mkdir()
    for k in range(4):
        (folder / f"{k}.png").write_bytes(file_of(photo(99, 130, k), "PNG"))
    return folder


def stored(path):
    """name -> LR tile of the place (0, 0), and the root's attributes."""
    store = open_store(path)
    first = store.table("images/first_tile")
    tiles = {
        name: store.read_tiles("lr", [int(first[k])])[0] for k, name in enumerate(store.names()) if name not in store.skipped()
    }
    return tiles, json.loads((path / "zarr.json").read_text())["attributes"]


def _bytes(path):
    return {key: LocalStore(path).get(key) for key in LocalStore(path).list_keys()}


def test_a_store_with_blind_lr(hr_folder, tmp_path):
    """LR of each tile is cut from that of the whole image, the store says what was done, and a rerun elsewhere gives the same bytes."""
    settings = PrepareConfig(tile=64, degradation="blind", seed=7)
    prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), settings)
    tiles, attrs = stored(tmp_path / "a.zarr")
    assert attrs["degradation"] == json.loads(json.dumps(degradation_facts("blind", 7)))
    assert attrs["degradation"]["first"]["jpeg"] == [30, 95]
    content = open_store(tmp_path / "a.zarr").table("images/sha256")[2]
    whole = degrade(photo(99, 130, 2)[:96, :128], "blind", 4, seed=7, content=bytes(content).hex())
    np.testing.assert_array_equal(tiles["2.png"], whole[:16, :16])
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "p.zip", "w") as archive:
        for path in sorted(hr_folder.iterdir(), reverse=True):
            archive.write(path, path.name)
    prepare(tmp_path / "zip" / "p.zip", tmp_path / "b.zarr", NoMasks(), settings)
    assert _bytes(tmp_path / "a.zarr") == _bytes(tmp_path / "b.zarr")


def test_a_store_with_given_lr(hr_folder, tmp_path):
    """Pixels come from the files; a missing, wrong-sized or broken one has its image listed; other LR is another store."""
    lr = tmp_path / "LR"
    lr.mkdir()
    mine = {k: photo(24, 32, 100 + k) for k in range(4)}
    (lr / "0x4.png").write_bytes(file_of(mine[0], "PNG"))
    (lr / "1x4.png").write_bytes(file_of(mine[1][:, :31], "PNG"))
    (lr / "2x4.png").write_bytes(b"broken")
    settings = PrepareConfig(tile=64, degradation="given")
    report = prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), settings, lr=lr)
    tiles, attrs = stored(tmp_path / "a.zarr")
    np.testing.assert_array_equal(tiles["0.png"], mine[0][:16, :16])
    assert attrs["degradation"] == {"kind": "given"}
    assert report.skipped["1.png"].startswith(
        "its LR file has 31 x 24 pixels, expected 32 x 24 (130 x 99 divided by the scale 4)"
    )
    assert report.skipped["2.png"].startswith("its LR file 2x4.png: no image of a known format")
    assert report.skipped["3.png"].startswith("no LR file for it")
    assert prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), settings, lr=lr).already_complete
    (lr / "0x4.png").write_bytes(file_of(mine[3], "PNG"))
    with pytest.raises(ValueError, match="the content of some images changed"):
        prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), settings, lr=lr)
    with pytest.raises(ImageError, match="3.png: no LR file for it"):
        prepare(hr_folder, tmp_path / "b.zarr", NoMasks(), settings, lr=lr, strict=True)
    with pytest.raises(ImageError, match="holds no LR file for any of 4 images, such as 0.png"):
        prepare(hr_folder, tmp_path / "c.zarr", NoMasks(), PrepareConfig(scale=2, tile=64, degradation="given"), lr=lr)
    for kind, given_lr in (("bicubic", lr), ("given", None)):
        with pytest.raises(ConfigError, match="does not go with lr"):
            prepare(hr_folder, tmp_path / "d.zarr", NoMasks(), PrepareConfig(tile=64, degradation=kind), lr=given_lr)


def test_given_lr_equal_to_ours_gives_the_same_tiles(hr_folder, tmp_path):
    """The whole way, in a zip with DIV2K's names: tiles as from `bicubic`, with a stride."""
    with zipfile.ZipFile(tmp_path / "lr.zip", "w") as archive:
        for k in range(4):
            small = imresize(photo(99, 130, k)[:96, :128], 1 / 4)
            buffer = io.BytesIO(file_of(small, "PNG"))
            archive.writestr(f"LR_bicubic/X4/{k}x4.png", buffer.getvalue())
    settings = {"tile": 64, "stride": 16}
    prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), PrepareConfig(**settings, degradation="given"), lr=tmp_path / "lr.zip")
    prepare(hr_folder, tmp_path / "b.zarr", NoMasks(), PrepareConfig(**settings))
    a, b = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert len(a) == len(b) == 4 * 3 * 5
    assert b.attrs["stride"] == 16
    np.testing.assert_array_equal(a.read_tiles("lr", range(len(a))), b.read_tiles("lr", range(len(b))))


def test_given_lr_of_a_size_rounded_up_is_cut_on_the_grid_of_hr(hr_folder, tmp_path):
    """HR of 130 x 99, LR of 33 x 25: as MATLAB's imresize leaves it."""
    lr = tmp_path / "LR"
    lr.mkdir()
    mine = {k: photo(25, 33, 100 + k) for k in range(4)}
    for k, pixels in mine.items():
        (lr / f"{k}x4.png").write_bytes(file_of(pixels, "PNG"))
    report = prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), PrepareConfig(tile=64, degradation="given"), lr=lr)
    assert report.skipped == {}
    store = open_store(tmp_path / "a.zarr")
    tiles, _ = stored(tmp_path / "a.zarr")
    np.testing.assert_array_equal(tiles["2.png"], mine[2][:16, :16])
    last = store.read_tiles("lr", [len(store) - 1])[0]  # flush with the border of the cut image: 96 x 128 HR, 24 x 32 LR
    np.testing.assert_array_equal(last, mine[3][8:24, 16:32])


def test_unread_formats_beside_images_do_not_take_their_lr(hr_folder, tmp_path):
    """`0.jxl` beside `0.png`, in HR and in LR: the pair of PNG is used, each other file has its reason."""
    lr = tmp_path / "LR"
    lr.mkdir()
    (hr_folder / "0.jxl").write_bytes(b"x")
    (lr / "0.jxl").write_bytes(b"x")
    for k in range(4):
        (lr / f"{k}.png").write_bytes(file_of(photo(24, 32, k), "PNG"))
    report = prepare(hr_folder, tmp_path / "a.zarr", NoMasks(), PrepareConfig(tile=64, degradation="given"), lr=lr)
    assert report.skipped.keys() == {"0.jxl"}
    assert "JPEG XL, a format that samdiff does not read (.jxl)" in report.skipped["0.jxl"]
