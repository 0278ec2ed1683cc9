"""The upscaler in Chromium, on the folder that `make web` built: `pytest -m browser tests/web`."""

import json
import os
import runpy
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import samdiff

from ..helpers.browser import chromium

ROOT = Path(samdiff.__file__).parent
BUILT = Path(os.environ.get("SAMDIFF_WEB", ROOT / "build" / "web"))
WAIT_MS = 600_000  # the machine may be slow and busy


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if not (BUILT / "models" / "models.json").is_file():
        pytest.skip(f"{BUILT} is not built: make web")
    with chromium() as shown:
        yield shown


@pytest.fixture(params=[False, True], ids=["plain", "isolated"])
def page(request, browser) -> Iterator[object]:
    """The page from a plain server, and from one whose headers allow threads. Errors on the console and requests to others fail the test."""
    make_server = runpy.run_path(str(ROOT / "web" / "serve.py"))["make_server"]
    with make_server(BUILT, isolated=request.param) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, problems = f"http://127.0.0.1:{server.server_port}/", []
        opened = browser.new_page(viewport={"width": 1100, "height": 850})
        opened.set_default_timeout(WAIT_MS)
        opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on(
            "request", lambda asked: None if asked.url.startswith((address, "blob:", "data:")) else problems.append(asked.url)
        )
        opened.goto(f"{address}?processor=cpu")
        opened.wait_for_selector("body[data-engine]")
        yield opened
        assert problems == []
        opened.close()
        server.shutdown()


def photo(height: int, width: int) -> np.ndarray:
    """Smooth colours with edges, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 100 * np.sin(x / 9 + y / 31), 127 + 90 * np.cos(y / 7), 127 + 80 * np.sin((x + y) / 5)], axis=-1)
    return np.where(((x // 23 + y // 17) % 5 == 0)[..., None], 230, waves).astype(np.uint8)


def inferred(image: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """What `samdiff infer --onnx` makes of it with the file of the page; the largest and the mean difference in levels that may be."""
    from samdiff.model.export.onnx_model import load_onnx

    facts = json.loads((BUILT / "models" / "models.json").read_text())["cpu"]
    deep = (
        facts["network"] == "rrdb" and facts["precision"] == "int8"
    )  # its 80 layers of int8 are rounded differently by each runtime
    return load_onnx(BUILT / "models" / facts["file"]).upscale(image), (24, 1.5) if deep else (1, 0.01)


@pytest.mark.browser
@pytest.mark.parametrize("size", [(50, 117), (129, 96)])
def test_the_result_is_that_of_infer(page, tmp_path, size):
    """Two odd sizes, one smaller than a tile: the downloaded PNG equals `samdiff infer --onnx`, for a student within one level."""
    Image.fromarray(photo(*size)).save(tmp_path / "input.png")
    page.set_input_files("#file", tmp_path / "input.png")
    page.wait_for_selector("#work[data-state=done]")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "input_x4.png"
    download.value.save_as(tmp_path / "out.png")
    found, (ours, (most, mean)) = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")), inferred(photo(*size))
    assert found.shape == ours.shape == (4 * size[0], 4 * size[1], 3)
    difference = np.abs(found.astype(int) - ours)
    assert difference.max() <= most
    assert difference.mean() <= mean
    assert "s per megapixel" in page.text_content("#status")


@pytest.mark.browser
def test_bicubic_is_that_of_matlab(page, tmp_path):
    from samdiff.pipeline.degrade.imresize import imresize

    Image.fromarray(photo(21, 30)).save(tmp_path / "input.png")
    page.set_input_files("#file", tmp_path / "input.png")
    page.wait_for_selector("#work[data-state=done]")
    read = "() => Array.from(document.querySelector('#bicubic').getContext('2d').getImageData(0, 0, 120, 84).data)"
    found = np.array(page.evaluate(read), np.uint8).reshape(84, 120, 4)[..., :3]
    assert np.abs(found.astype(int) - imresize(photo(21, 30), 4)).max() <= 1  # MATLAB rounds between its two passes


@pytest.mark.browser
def test_keyboard_slider_and_what_is_refused(page, tmp_path):
    """Everything has a name and is reached by Tab; the arrow keys move the slider; what cannot be enlarged is refused with the reason."""
    (tmp_path / "text.png").write_text("no image")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#error:not([hidden])")
    assert "cannot be read as an image" in page.text_content("#error")
    Image.new("L", (4200, 10)).save(tmp_path / "wide.png")
    page.set_input_files("#file", tmp_path / "wide.png")
    page.locator("#error", has_text="4200 × 10").wait_for()
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")  # 20 kB; 576 MB if it were decoded
    page.set_input_files("#file", tmp_path / "huge.png")
    page.locator("#error", has_text="12000 × 12000 pixels and would become 48000 × 48000").wait_for()
    Image.fromarray(photo(20, 20)).save(tmp_path / "input.png")
    page.evaluate(
        "() => { const read = CanvasRenderingContext2D.prototype.getImageData; CanvasRenderingContext2D.prototype.getImageData ="
        " function () { CanvasRenderingContext2D.prototype.getImageData = read; throw new RangeError('out of memory'); } }"
    )
    page.set_input_files("#file", tmp_path / "input.png")
    page.locator("#error", has_text="does not have enough memory for a result of 80 × 80 pixels").wait_for()
    assert page.is_visible("#drop")
    page.set_input_files("#file", tmp_path / "input.png")
    page.wait_for_selector("#work[data-state=done]")
    assert page.is_hidden("#error")
    page.focus("#split")
    page.keyboard.press("Home")
    assert page.evaluate("getComputedStyle(document.querySelector('#stack')).getPropertyValue('--split')") == "0%"
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"zoom", "download", "again", "view", "split", "processor"} <= reached
    names = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, canvas, progress')].map("
        "e => (e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || '').trim())"
    )
    assert all(names)
    page.click("#again")
    page.wait_for_selector("#drop:not([hidden])")


@pytest.mark.browser
def test_threads_are_used_where_they_may_be(page):
    isolated = page.evaluate("self.crossOriginIsolated && navigator.hardwareConcurrency > 1")
    assert ("threads" in page.get_attribute("body", "data-engine")) == isolated


def test_a_page_without_its_parts_says_what_to_do(tmp_path, monkeypatch):
    """`make web` without npm, and with another package than the recorded one."""
    from samdiff.errors import ConfigError

    fetch_ort = runpy.run_path(str(ROOT / "web" / "build.py"))["fetch_ort"]
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="needs npm"):
        fetch_ort(tmp_path)
    (tmp_path / "onnxruntime-web-1.30.0.tgz").write_bytes(b"another")
    with pytest.raises(ConfigError, match="expected SHA-256 d2228df7"):
        fetch_ort(tmp_path)
