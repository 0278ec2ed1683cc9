"""Metrics by their protocols, tables, sheets, and the exported networks against PyTorch."""

import json
import os
import socket
import subprocess
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from samdiff import load_model
from samdiff.cli import main
from samdiff.errors import ConfigError
from samdiff.model.evaluation.benchmark import Pair, read_pairs
from samdiff.model.evaluation.evaluate import Row, as_csv, as_json, as_markdown, evaluate, summarise
from samdiff.model.evaluation.ldl import artifact_map
from samdiff.model.evaluation.metrics import psnr
from samdiff.model.evaluation.perceptual import load_measures
from samdiff.model.inference.image_io import save_image
from samdiff.model.sheets.comparison import comparison, detailed_box
from samdiff.pipeline.degrade.imresize import imresize
from samdiff.runtime import brief_downloads

from ...helpers.models import write_model

SHARED = Path(__file__).parents[4] / "shared" / "data"


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.skipif(not SHARED.exists(), reason="the benchmark images are not part of the project")
@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [("set5", 4, (28.429, 0.8111)), ("set14", 2, (30.230, 0.8691)), ("set14", 4, (25.994, 0.7029))],
)
def test_the_bicubic_rows_of_the_field_through_evaluate(name, scale, expected):
    """To .005 dB, grey files on their grey values; the RRDB's place is taken by bicubic here."""
    rows = evaluate(read_pairs(SHARED / name, scale), name, scale, lambda lr: imresize(lr, scale), lambda lr, _: lr, [])
    result = summarise(rows)[name, "bicubic"]
    assert result["psnr_y"][0] == pytest.approx(expected[0], abs=0.005)
    assert result["ssim_y"][0] == pytest.approx(expected[1], abs=0.0005)
    assert result["ldl"] == summarise(rows)[name, "rrdb"]["ldl"]


def test_pairs_of_a_folder(tmp_path):
    """HR alone is cropped and downsampled; existing LR is used, also NAMEx4; a missing or wrong LR is an error."""
    hr = random_image(35, 41, 3)
    save_image(hr, tmp_path / "a" / "x.png")
    (pair,) = read_pairs(tmp_path / "a", 4)
    np.testing.assert_array_equal(pair.hr, hr[:32, :40])
    np.testing.assert_array_equal(pair.lr, imresize(np.ascontiguousarray(hr[:32, :40]), 0.25))
    save_image(hr, tmp_path / "b" / "HR" / "x.png")
    save_image(random_image(8, 10, 3), tmp_path / "b" / "LRx4" / "xx4.png")
    (pair,) = read_pairs(tmp_path / "b", 4)
    np.testing.assert_array_equal(pair.lr, random_image(8, 10, 3))
    save_image(hr, tmp_path / "b" / "HR" / "y.png")
    with pytest.raises(ConfigError, match="has no LR for y.png"):
        read_pairs(tmp_path / "b", 4)
    save_image(random_image(4, 5, 3), tmp_path / "b" / "LRx4" / "y.png")
    with pytest.raises(ConfigError, match="expected y.png reduced 4 times"):
        read_pairs(tmp_path / "b", 4)
    with pytest.raises(ConfigError, match=r"expected one benchmark, found several \(b, a\)"):
        read_pairs(tmp_path, 4)
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="found none"):
        read_pairs(tmp_path / "none", 4)
    with pytest.raises(ConfigError, match="there is no such folder"):
        read_pairs(tmp_path / "Set5", 4)


def test_two_benchmarks_of_one_name_are_refused(tmp_path, capsys):
    """Set5/HR and Set14/HR: one would silently take the other's place."""
    for name in ("Set5", "Set14"):
        save_image(random_image(32, 32, 3), tmp_path / name / "HR" / "x.png")
    write_model(tmp_path / "m.safetensors")
    folders = [part for name in ("Set5", "Set14") for part in ("--benchmark", str(tmp_path / name / "HR"))]
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *folders, "--checkpoint", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "out")])
    assert "two folders are named HR" in capsys.readouterr().err


def test_means_and_errors_over_seeds():
    """Mean over images, then mean and standard error over seeds; the same in table, CSV and JSON."""
    values = {0: (20.0, 22.0), 1: (21.0, 25.0), 2: (23.0, 27.0)}
    rows = [Row("b", str(i), "samdiff", seed, {"psnr_y": v}) for seed, pair in values.items() for i, v in enumerate(pair)]
    mean, error = summarise(rows)["b", "samdiff"]["psnr_y"]
    assert (mean, error) == pytest.approx((23.0, np.std([21, 23, 25], ddof=1) / 3**0.5))
    assert f"| b | samdiff | 23.000 ± {error:.3f} |" in as_markdown(summarise(rows))
    assert as_csv(rows).splitlines()[1] == "b,0,samdiff,0,20.000000"
    assert json.loads(as_json(rows, {"scale": 4}))["summary"][0]["psnr_y"]["standard_error"] == pytest.approx(error)


def test_the_artifact_map_by_its_definition():
    """Against a plain loop over windows; nothing is marked where the stable result is worse."""
    hr, result, stable = (random_image(12, 10 + i, 3)[:, :10] for i in range(3))
    residual = np.abs(hr.astype(float) - result).sum(axis=2) / 255
    other = np.abs(hr.astype(float) - stable).sum(axis=2) / 255
    padded = np.pad(residual, 3, mode="reflect")
    expected = np.zeros_like(residual)
    for y in range(12):
        for x in range(10):
            expected[y, x] = residual.var(ddof=1) ** 0.2 * padded[y : y + 7, x : x + 7].var(ddof=1)
    expected[residual < other] = 0
    np.testing.assert_allclose(artifact_map(result, hr, stable), expected, atol=1e-12)
    assert artifact_map(hr, hr, stable).max() == 0


def test_sheets_show_crops_and_differences():
    """One row of whole images, one per box, one of maps; the box is found where the detail is; wrong boxes and sizes are refused."""
    hr = np.full((64, 80, 3), 90, np.uint8)
    hr[40:56, 8:24] = random_image(16, 16, 3)
    blurred = cv2.GaussianBlur(hr, (5, 5), 1)
    x, y, w, h = detailed_box(hr)
    assert (w, h) == (16, 16)
    assert abs(x - 8) <= 2 >= abs(y - 40)
    sheet = comparison([("sharp", hr), ("blurred", blurred)], hr, [(0, 0, 16, 16), (8, 40, 16, 16)], width=80)
    assert sheet.shape[1] == 3 * 96
    assert sheet.shape[0] > 64 + 80 + 80 + 64
    seen = []
    more = {"lpips": lambda image, truth: seen.append((image, truth)) or 0.25}
    taller = comparison([("sharp", hr), ("blurred", blurred)], hr, [(0, 0, 16, 16), (8, 40, 16, 16)], width=80, metrics=more)
    assert taller.shape[0] == sheet.shape[0] + 18  # a third line in the captions of the first row alone
    np.testing.assert_array_equal(taller[-200:], sheet[-200:])
    assert [image is not None and truth.shape == hr.shape for image, truth in seen] == [True, True]
    for boxes in ([(70, 0, 16, 16)], [(0, 0, 0, 4)]):
        with pytest.raises(ConfigError, match="expected a box inside 80 x 64"):
            comparison([("a", hr)], hr, boxes)
    with pytest.raises(ConfigError, match="expected images of one size"):
        comparison([("a", hr), ("b", hr[1:])], None, [])


def test_without_pyiqa_the_way_is_told(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError, match=r"pip install 'samdiff\[iqa\]'"):
        load_measures(["maniqa"], torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"--metrics lpipz \(did you mean 'lpips'\?\): needs pyiqa"):
        load_measures(["lpipz"], torch.device("cpu"))


@pytest.fixture
def pyiqa(monkeypatch):
    """A stand-in: `l1` works, but not for small images; `musiq` cannot be fetched; `fid` compares the means of folders."""

    def create_metric(name, device):
        sys.stdout.write("Loading\n")  # as pyiqa does
        if name == "musiq":
            raise OSError("no route to host\nmore")
        return {"l1": l1, "fid": fid, "drawn": lambda *_: torch.rand(()) + np.random.rand()}[name]  # noqa: NPY002

    def l1(result, hr):
        assert result.shape[1] == 3
        if result.shape[2] < 4:
            raise RuntimeError("too small")
        return (result - hr).abs().mean()

    def fid(result, hr, num_workers, verbose):
        means = [np.mean([cv2.imread(str(path)).mean() for path in Path(folder).iterdir()]) for folder in (result, hr)]
        return means[0] - means[1]

    stand_in = types.SimpleNamespace(create_metric=create_metric, list_models=lambda: ["l1", "musiq", "fid", "drawn"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "pyiqa", stand_in)


def test_measures_that_cannot_be_had_leave_the_others_alone(pyiqa, capsys):
    """No weights: a reason. An image that is too small: NaN and a reason. An unknown name is an error."""
    measures = load_measures(["l1", "musiq"], torch.device("cpu"))
    assert list(measures.images) == ["l1"]
    assert capsys.readouterr().out == ""
    assert measures.skipped["musiq"].endswith("(OSError: no route to host)")
    l1 = measures.images["l1"]
    assert l1(np.zeros((4, 4), np.uint8), np.full((4, 4), 51, np.uint8)) == pytest.approx(0.2)
    assert list(measures.skipped) == ["musiq"]
    assert np.isnan(l1(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8)))
    assert "too small" in measures.skipped["l1"]
    with pytest.raises(ConfigError, match="got 'dist'; perhaps dists"):
        load_measures(["l1", "dist"], torch.device("cpu"))


def test_figures_of_a_whole_benchmark(pyiqa):
    """A row per method and seed, in addition to those of the images; in CSV, JSON and the table. One image is not enough."""
    pairs = [Pair(str(n), random_image(8 + n, 9), random_image(32 + 4 * n, 36)) for n in range(2)]

    def metrics(pairs):
        measures = load_measures(["fid", "l1"], torch.device("cpu"))
        flat = [np.full_like(pair.hr, 9) for pair in pairs]
        sizes = {image.shape: image for image in flat}
        grown = lambda lr, seed=0: sizes[lr.shape[0] * 4, 36] + np.uint8(seed)  # noqa: E731
        return evaluate(pairs, "b", 4, grown, grown, [0, 2], measures), measures.skipped

    rows, skipped = metrics(pairs)
    assert skipped == {}
    whole = {(row.method, row.seed): row.metrics for row in rows if not row.image}
    hr = np.mean([pair.hr.mean() for pair in pairs])
    assert whole["rrdb", 0] == {"fid": pytest.approx(9 - hr)}
    assert whole["samdiff", 2] == {"fid": pytest.approx(11 - hr)}
    assert summarise(rows)["b", "samdiff"]["fid"] == pytest.approx((10 - hr, 1.0))
    assert as_markdown(summarise(rows)).splitlines()[0].endswith("| l1 | fid |")
    lines = as_csv(rows).splitlines()
    assert lines[0].endswith(",l1,fid")
    assert lines[-1] == f"b,,samdiff,2,{',' * 8}{11 - hr:.6f}"
    assert lines[1].endswith(",")
    assert json.loads(as_json(rows, {}))["summary"][1]["fid"]["mean"] == pytest.approx(9 - hr)
    rows, skipped = metrics(pairs[:1])
    assert "at least 2 images, got 1" in skipped["fid"]
    assert json.loads(as_json(rows, {}))["summary"][1]["fid"]["mean"] is None


def test_evaluate_lists_the_figures_it_could_not_make(pyiqa, tmp_path, capsys, monkeypatch):
    """The others are there; status 3; `-q` leaves the table and the reasons."""
    monkeypatch.setenv("SAMDIFF_QUIET", "")
    save_image(random_image(32, 32, 3), tmp_path / "set" / "x.png")
    words = ["--benchmark", str(tmp_path / "set"), "--checkpoint", str(write_model(tmp_path / "m.safetensors")), "--steps", "1"]
    with pytest.raises(SystemExit, match="3"):
        main(["evaluate", "-q", *words, "--metrics", "l1,musiq", "-o", str(tmp_path / "out")])
    reported = capsys.readouterr()
    assert reported.out.splitlines()[4].startswith("| set | samdiff |")
    assert "LR of set: made from HR by MATLAB's bicubic" in reported.out
    assert "l1: pyiqa of unknown version, its model 'l1'" in reported.out
    assert "skipped musiq: pyiqa could not" in reported.err
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["skipped"].keys() == {"musiq"}
    assert " l1 |" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *words, "-o", str(tmp_path / "out")])
    assert "figures.csv: exists already; give --overwrite" in capsys.readouterr().err


def test_downloads_give_up_soon(monkeypatch):
    """An unreachable hub is not queried for each file; sockets have a timeout inside only."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    before = socket.getdefaulttimeout()
    with brief_downloads(3):
        assert socket.getdefaulttimeout() == 3
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert socket.getdefaulttimeout() == before


def test_onnx_equals_pytorch_at_other_sizes(tmp_path):
    """RRDB and denoiser with onnxruntime, at sizes that the export did not see; then a whole image by the example."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from samdiff.model.export.onnx_export import Encoder, export_onnx

    model = load_model(write_model(tmp_path / "model.safetensors"), "cpu")
    export_onnx(model, tmp_path / "onnx")
    rrdb, denoiser = (runtime.InferenceSession(str(tmp_path / "onnx" / name)) for name in ("rrdb.onnx", "denoiser.onnx"))
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in ((1, 9, 14), (3, 5, 6)):
        lr = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
        x = torch.randn(batch, 3, 4 * height, 4 * width, generator=generator)
        t = torch.arange(batch) * 30
        with torch.inference_mode():
            base, given = Encoder(model.rrdb)(lr)
            predicted = model.unet(x, t, given)
        result = rrdb.run(None, {"lr": lr.numpy()})
        np.testing.assert_allclose(result[0], base.numpy(), atol=2e-5)
        np.testing.assert_allclose(result[1], given.numpy(), atol=2e-5)
        ours = denoiser.run(None, {"x": x.numpy(), "t": t.numpy(), "condition": given.numpy()})[0]
        np.testing.assert_allclose(ours, predicted.numpy(), atol=2e-4)
    save_image(random_image(11, 13, 3), tmp_path / "lr.png")
    example = Path(__file__).parents[3] / "docs" / "onnx_example.py"
    words = [sys.executable, str(example), str(tmp_path / "onnx"), str(tmp_path / "lr.png"), str(tmp_path / "sr.png"), "4"]
    subprocess.run(words, check=True)
    result = cv2.imread(str(tmp_path / "sr.png"))[..., ::-1]
    assert result.shape == (44, 52, 3)
    ours = model.upscale(random_image(11, 13, 3), steps=4, sampler="ddim")
    assert psnr(result, ours) < 100  # another noise, the same kind of image
    assert len(example.read_text().splitlines()) <= 40


def test_onnx_example_runs_the_shipped_flow(tmp_path):
    """One Euler step from the RRDB's image: PyTorch's result but for the noise, which changes little; odd sizes are cropped."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from samdiff.model.export.onnx_export import export_onnx

    model = load_model("shipped", "cpu")
    export_onnx(model, tmp_path / "onnx")
    pixels = cv2.GaussianBlur(random_image(21, 18, 3), (0, 0), 2)
    save_image(pixels, tmp_path / "lr.png")
    example = Path(__file__).parents[3] / "docs" / "onnx_example.py"
    subprocess.run(
        [sys.executable, str(example), str(tmp_path / "onnx"), str(tmp_path / "lr.png"), str(tmp_path / "sr.png")], check=True
    )
    result = cv2.imread(str(tmp_path / "sr.png"))[..., ::-1]
    ours, other = (model.upscale(pixels, steps=1, seed=seed) for seed in (0, 1))
    assert result.shape == (84, 72, 3)
    assert psnr(result, ours) > psnr(other, ours) - 3 > 30  # no further from PyTorch's image than two of its samples are
