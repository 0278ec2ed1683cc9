"""The upscaler on WebGPU, with the adapter that Chromium computes on the CPU; what happens where there is no GPU, or it fails."""

import json
import runpy
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from samdiff.model.checkpoints.format import Checkpoint
from samdiff.model.config import load_config
from samdiff.model.export.onnx_model import load_onnx
from samdiff.model.export.tile_export import export_tile
from samdiff.model.networks.build import build_student

from ..helpers.browser import chromium
from .test_upscaler import BUILT, ROOT, WAIT_MS, photo

EMULATED = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
NO_GPU = ("--disable-gpu", "--disable-features=WebGPU")
PRETENDED = "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({ info: {} }) } })"
"""A page that believes in a GPU; its worker does not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The page with a small network on tiles of 40 pixels, since the emulated adapter is slow."""
    if not (BUILT / "ort").is_dir():
        pytest.skip(f"{BUILT} is not built: make web")
    out = tmp_path_factory.mktemp("page") / "web"
    out.mkdir()
    for file in (ROOT / "web").glob("*.[hcj]*s*"):
        shutil.copyfile(file, out / file.name)
    shutil.copyfile(ROOT / "web" / "index.html", out / "index.html")
    shutil.copytree(BUILT / "ort", out / "ort")
    config = load_config("student", sets=["student.layers=3", "student.width=8"])
    torch.manual_seed(0)
    network = build_student(config)
    tensors = {f"student.{name}": value + 0.02 * torch.randn_like(value) for name, value in network.state_dict().items()}
    files, _ = export_tile(
        Checkpoint("student", tensors, config.as_dict(), facts={}),
        "test",
        out / "models",
        only="student",
        side=40,
        precision="fp32",
    )
    facts = json.loads(files[1].read_text())
    (out / "models" / "models.json").write_text(json.dumps({"cpu": facts, "gpu": facts}))
    return out


@contextmanager
def opened(folder: Path, *flags: str, query: str = "", script: str = "") -> Iterator[object]:
    """The page in a browser with these flags."""
    make_server = runpy.run_path(str(ROOT / "web" / "serve.py"))["make_server"]
    with chromium(*flags) as browser, make_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        if script:
            page.add_init_script(script)
        page.goto(f"http://127.0.0.1:{server.server_port}/{query}")
        page.wait_for_selector("body[data-engine]")
        yield page
        server.shutdown()


def enlarged(page: object, tmp_path: Path, image: np.ndarray) -> np.ndarray:
    Image.fromarray(image).save(tmp_path / "input.png")
    page.set_input_files("#file", tmp_path / "input.png")
    page.wait_for_selector("#work[data-state=done]")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "out.png")
    return np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))


def inferred(folder: Path, image: np.ndarray) -> np.ndarray:
    return load_onnx(folder / "models" / json.loads((folder / "models" / "models.json").read_text())["gpu"]["file"]).upscale(
        image
    )


@pytest.mark.browser
def test_the_gpu_gives_the_result_of_infer(folder, tmp_path):
    """Several tiles on WebGPU equal `samdiff infer --onnx` within one level; an emulated GPU is offered, and not the default."""
    with opened(folder, *EMULATED) as page:
        if page.locator("#processor option").count() < 2:
            pytest.skip("this Chromium has no emulated WebGPU adapter")
        assert "CPU" in page.get_attribute("body", "data-engine")
        assert "emulated" in page.text_content("#processor")
        page.select_option("#processor", "webgpu")
        page.wait_for_selector("body[data-engine=GPU]")
        found = enlarged(page, tmp_path, photo(45, 70))
        assert page.is_hidden("#error")
    assert found.shape == (180, 280, 3)
    assert np.abs(found.astype(int) - inferred(folder, photo(45, 70))).max() <= 1


@pytest.mark.browser
def test_a_gpu_that_fails_is_replaced_by_the_cpu(folder, tmp_path):
    """A message says so, and the image is still enlarged."""
    with opened(folder, *NO_GPU, script=PRETENDED) as page:
        page.wait_for_selector("#error:not([hidden])")
        assert "The GPU failed (" in page.text_content("#error")
        assert "the CPU is used now" in page.text_content("#error")
        assert page.input_value("#processor") == "cpu"
        assert page.get_attribute("body", "data-engine") == "CPU, one thread"
        found = enlarged(page, tmp_path, photo(45, 70))
        assert page.is_hidden("#error")
    assert np.abs(found.astype(int) - inferred(folder, photo(45, 70))).max() <= 1


@pytest.mark.browser
def test_a_gpu_that_is_requested_and_missing(folder):
    with opened(folder, *NO_GPU, query="?processor=gpu") as page:
        assert "offers no GPU" in page.text_content("#error")
        assert page.get_attribute("body", "data-engine") == "CPU, one thread"
