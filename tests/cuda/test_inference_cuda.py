"""Inference and export on the device against the CPU."""

import json

import numpy as np
import pytest
import torch

from samdiff import load_model

from ..helpers.models import FLOW, write_model
from ..helpers.runs import run

IMAGE = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)


@pytest.fixture(scope="module", params=[(), FLOW], ids=["ddpm", "flow"])
def models(store, tmp_path_factory, device, request):
    """One trained model, on the device and on the CPU."""
    path = run(store, tmp_path_factory.mktemp("run") / "r", device, *request.param)
    return load_model(path, device), load_model(path, "cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"rrdb_only": True},
        {"steps": 3, "seed": 1},
        {"steps": 3, "seed": 1, "tile": 16, "overlap": 4},
        {"steps": 3, "seed": 1, "num_samples": 2, "back_project": True},
    ],
    ids=["rrdb", "whole", "tiles", "mean of samples"],
)
def test_images_equal_those_of_the_cpu(models, settings):
    """Within one level of 255; the noise is drawn on the CPU, so that a seed means the same image everywhere."""
    a, b = (model.upscale(IMAGE, **settings).astype(int) for model in models)
    assert np.abs(a - b).max() <= 1


def test_bf16_is_close(models):
    """A few levels in the mean, with an untrained model's large steps."""
    a, b = (m.upscale(IMAGE, steps=3, seed=1, amp=amp).astype(int) for m, amp in zip(models, ("bf16", "off"), strict=True))
    assert np.abs(a - b).mean() < 4


def test_the_shipped_model_equals_the_cpu(device):
    """Real weights, as recommended: within one level."""
    image = np.ascontiguousarray(np.linspace(0, 255, 24 * 40 * 3).reshape(24, 40, 3).astype(np.uint8)[::-1])
    a, b = (load_model("shipped", where).upscale(image).astype(int) for where in (device, "cpu"))
    assert np.abs(a - b).max() <= 1


def test_exported_networks_equal_the_cpus(tmp_path, device):
    """The files that a model on the device gives: same schedule, and networks whose outputs agree in ONNX Runtime."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from samdiff.model.export.onnx_export import export_onnx

    model = write_model(tmp_path / "m.safetensors")
    folders = [tmp_path / "device", tmp_path / "cpu"]
    for folder, where in zip(folders, (device, torch.device("cpu")), strict=True):
        export_onnx(load_model(model, where), folder)
    assert json.loads((folders[0] / "schedule.json").read_text()) == json.loads((folders[1] / "schedule.json").read_text())
    lr = np.random.default_rng(0).uniform(-1, 1, (1, 3, 12, 16)).astype(np.float32)
    sessions = [runtime.InferenceSession(str(folder / "rrdb.onnx"), providers=["CPUExecutionProvider"]) for folder in folders]
    for ours, theirs in zip(*(session.run(None, {"lr": lr}) for session in sessions), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
