"""Our network in the browser beside UpscalerJS's esrgan-slim x4: seconds per megapixel of output, and PSNR on Y, on one page in Chromium.

    make web ONLY=rrdb STATIC=128 CALIBRATE=photos/ && mv build/web build/rrdb
    make web STATIC=128 CALIBRATE=photos/
    taskset -c 0 python benchmarks/web_peers.py FOLDER build/web build/rrdb [--backends wasm] [--rounds 3] [--report FILE] [--save FOLDER]

FOLDER as for `samdiff evaluate`; scale 4. The others are folders of `make web`, whose own worker runs on the page. UpscalerJS, its model and
TensorFlow.js come from npm into `--packages` (build/npm/peers); all versions are fixed below.

Every image is enlarged once without being measured, since WebGL compiles its programs at first use. Then the methods take turns for several
rounds, so that a disturbance meets all of them alike. CPU seconds are those of all processes of the browser (Linux), wall seconds those of the
page; both are medians over rounds, and the ratio is the median of the ratios of each round. Neither side has threads: the page is not isolated. Without a GPU, `webgl` is computed by the CPU
(SwiftShader), and one image takes minutes. Bind it to one core with taskset: then wall seconds are those of one core.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from samdiff.model.evaluation.benchmark import Pair, read_pairs
from samdiff.model.evaluation.metrics import psnr_y
from samdiff.model.inference.image_io import save_image
from samdiff.pipeline.degrade.imresize import imresize

SCALE = 4
PACKAGES = (
    "upscaler@1.0.0",
    "@upscalerjs/esrgan-slim@1.0.0",
    "@tensorflow/tfjs@4.22.0",
    "@tensorflow/tfjs-backend-wasm@4.22.0",
)
MODEL = "/npm/@upscalerjs/esrgan-slim/models/x4/model.json"
PAGE = f"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>benchmark</title>
<script src="/npm/@tensorflow/tfjs/dist/tf.min.js"></script>
<script src="/npm/@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js"></script>
<script src="/npm/upscaler/dist/browser/umd/upscaler.min.js"></script>
<script src="/npm/@upscalerjs/esrgan-slim/dist/umd/models/esrgan-slim/src/x4/index.min.js"></script>
<script>
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
function textOf(bytes) {{
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}}
const load = {{  // each returns a function: RGBA, width, height -> RGBA of the result
  async ours(place) {{
    const worker = new Worker(`${{place}}/worker.js`, {{ type: 'module' }}), next = {{}};
    worker.onmessage = ({{ data }}) => next.take(data);
    const model = (await (await fetch(`${{place}}/models/models.json`)).json()).cpu;
    await new Promise((resolve, reject) => {{
      next.take = (data) => (data.type === 'failed' ? reject(new Error(data.text)) : resolve());
      worker.postMessage({{ type: 'load', provider: 'wasm', model }});
    }});
    let id = 0;
    return (pixels, width, height) => new Promise((resolve, reject) => {{
      const result = new Uint8ClampedArray(16 * 4 * width * height);
      next.take = (data) => {{
        if (data.type === 'rows') result.set(data.pixels, data.top * width * 4 * 4);
        if (data.type === 'failed') reject(new Error(data.text));
        if (data.type === 'done') resolve(result);
      }};
      worker.postMessage({{ type: 'run', id: ++id, pixels: pixels.slice(), width, height }});
    }});
  }},
  async theirs(backend) {{
    if (backend === 'wasm') tf.wasm.setWasmPaths('/npm/@tensorflow/tfjs-backend-wasm/dist/');
    if (!(await tf.setBackend(backend))) throw new Error(`TensorFlow.js has no backend ${{backend}} here`);
    await tf.ready();
    const upscaler = new Upscaler({{ model: {{ ...ESRGANSlim4x, path: '{MODEL}' }} }});
    await upscaler.ready;
    return async (pixels, width, height) => {{
      await tf.setBackend(backend);
      const lr = tf.browser.fromPixels(new ImageData(new Uint8ClampedArray(pixels), width, height));
      const made = await upscaler.upscale(lr, {{ output: 'tensor' }}), whole = tf.clipByValue(tf.round(made), 0, 255).toInt();
      const result = await tf.browser.toPixels(whole);
      tf.dispose([lr, made, whole]);
      return result;
    }};
  }},
}};
const methods = {{}};
window.prepare = async (name, kind, what) => {{ methods[name] = await load[kind](what); }};
window.enlarge = async (name, rgba, width, height) => {{
  const pixels = new Uint8ClampedArray(bytesOf(rgba).buffer), begun = performance.now();
  const result = await methods[name](pixels, width, height);
  return {{ seconds: (performance.now() - begun) / 1000, rgba: textOf(result) }};
}};
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """The page, and files of the given folders by prefix."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def __init__(self, *arguments: Any, folders: dict[str, Path]) -> None:
        self.folders = folders
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """The page itself, or a file."""
        if self.path != "/":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def translate_path(self, path: str) -> str:
        """The file of an address; one that does not exist outside the folders."""
        first, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
        folder = self.folders.get(first)
        inside = folder is not None and ".." not in rest.split("/")
        return str(folder / rest) if inside and folder is not None else os.devnull + "/none"

    def log_message(self, format: str, *values: object) -> None:
        """No line per request."""


def fetch_packages(folder: Path) -> Path:
    """`node_modules` with the packages, installed if they are not there. UpscalerJS asks for an older TensorFlow.js (--legacy-peer-deps)."""
    place = folder / "node_modules"
    if not all((place / name.rpartition("@")[0]).is_dir() for name in PACKAGES):
        if shutil.which("npm") is None:
            sys.exit("web_peers: needs npm, to fetch UpscalerJS; install Node.js")
        folder.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--prefix", str(folder), "--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run([*words, *PACKAGES], check=True, stdout=subprocess.DEVNULL)
    return place


def cpu_seconds(parent: int) -> float:
    """CPU time of all living processes below a process, without itself; NaN where there is no /proc."""
    if not Path("/proc/self/stat").exists():
        return float("nan")
    spent, children = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        number = int(stat.parent.name)
        spent[number] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        children.setdefault(int(words[1]), []).append(number)
    below, total = list(children.get(parent, [])), 0.0
    while below:
        number = below.pop()
        total += spent[number]
        below += children.get(number, [])
    return total


def rgba_of(lr: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] or grey -> RGBA."""
    rgb = np.broadcast_to(np.atleast_3d(lr), (*lr.shape[:2], 3))
    return np.concatenate([rgb, np.full((*lr.shape[:2], 1), 255, np.uint8)], axis=-1)


def enlarged(page: Any, name: str, lr: np.ndarray) -> tuple[np.ndarray, float, float]:
    """The result, its wall seconds and its CPU seconds."""
    height, width = lr.shape[:2]
    sent = base64.b64encode(rgba_of(lr).tobytes()).decode()
    before = cpu_seconds(os.getpid())
    found = page.evaluate("([name, rgba, w, h]) => enlarge(name, rgba, w, h)", [name, sent, width, height])
    spent = cpu_seconds(os.getpid()) - before
    pixels = np.frombuffer(base64.b64decode(found["rgba"]), np.uint8).reshape(SCALE * height, SCALE * width, 4)
    return pixels[..., :3], float(found["seconds"]), spent


def measure(page: Any, names: list[str], pairs: list[Pair], *, rounds: int, save: Path | None) -> dict[str, dict[str, Any]]:
    """Name -> PSNR, and seconds per megapixel of each round."""
    megapixels = sum(SCALE**2 * pair.lr.shape[0] * pair.lr.shape[1] for pair in pairs) / 1e6
    rows: dict[str, dict[str, Any]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(rounds + 1):
        for name, row in rows.items():
            done = [enlarged(page, name, pair.lr) for pair in pairs]
            wall, cpu = (sum(times) / megapixels for times in list(zip(*done, strict=True))[1:])
            sys.stderr.write(f"round {turn} of {rounds}: {name}, {wall:.2f} s ({cpu:.2f} s of CPU time) per megapixel\n")
            if save is not None and not turn:
                for (sr, _, _), pair in zip(done, pairs, strict=True):
                    save_image(sr, save / f"{pair.name}_{name.replace(' ', '-')}.png", overwrite=True)
            if turn:
                row["wall"].append(wall)
                row["cpu"].append(cpu)
            else:
                row["psnr_y"] = float(
                    np.mean([psnr_y(sr, pair.hr, SCALE) for (sr, _, _), pair in zip(done, pairs, strict=True)])
                )
    return rows


def run(given: argparse.Namespace, pairs: list[Pair]) -> tuple[dict[str, dict[str, Any]], str]:
    """Measure all methods in one browser. Returns the rows and the browser's version."""
    from playwright.sync_api import sync_playwright

    folders = {f"ours{number}": folder for number, folder in enumerate(given.ours)} | {"npm": fetch_packages(given.packages)}
    program = os.environ.get("SAMDIFF_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("web_peers: no Chromium; install it, or give its program in SAMDIFF_CHROMIUM")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folders=folders))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*root, "--enable-unsafe-swiftshader"])
        page = browser.new_page()
        page.set_default_timeout(0)
        page.on("pageerror", lambda error: sys.stderr.write(f"{error}\n"))
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        names = []
        for number, folder in enumerate(given.ours):
            facts = json.loads((folder / "models" / "models.json").read_text())["cpu"]
            names.append(f"{facts['network']} {facts['precision']}, tiles of {facts['tile']}, onnxruntime-web wasm")
            page.evaluate("([name, what]) => prepare(name, 'ours', what)", [names[-1], f"/ours{number}"])
        for backend in given.backends:
            names.append(f"UpscalerJS esrgan-slim, TensorFlow.js {backend}")
            page.evaluate("([name, what]) => prepare(name, 'theirs', what)", [names[-1], backend])
        found, version = measure(page, names, pairs, rounds=given.rounds, save=given.save), browser.version
        browser.close()
    server.shutdown()
    return found, version


def main() -> None:
    """Measure, print a Markdown table, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("ours", type=Path, nargs="+", help="folders of `make web`")
    parser.add_argument("--backends", nargs="*", default=["wasm"], help="of TensorFlow.js: wasm, webgl, cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packages", type=Path, default=Path("build/npm/peers"))
    parser.add_argument("--save", type=Path, help="folder for the results as PNG")
    parser.add_argument("--report", type=Path, help="JSON file to write")
    given = parser.parse_args()
    pairs, start = read_pairs(given.folder, SCALE), time.perf_counter()
    rows, version = run(given, pairs)
    bicubic = float(np.mean([psnr_y(imresize(pair.lr, SCALE), pair.hr, SCALE) for pair in pairs]))
    first = next(iter(rows.values()))
    print(
        f"| {given.folder.resolve().name}, Chromium {version} | PSNR-Y | s per megapixel | CPU s per megapixel | ratio of CPU s |"
    )
    print("|---|---|---|---|---|")
    print(f"| bicubic | {bicubic:.2f} | | | |")
    for name, row in rows.items():
        wall, cpu = median(row["wall"]), median(row["cpu"])
        ratio = median(own / other for own, other in zip(row["cpu"], first["cpu"], strict=True))
        print(f"| {name} | {row['psnr_y']:.2f} | {wall:.2f} | {cpu:.2f} | {ratio:.2f} |")
    if given.report:
        facts = {"chromium": version, "rounds": given.rounds, "images": len(pairs), "seconds": time.perf_counter() - start}
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps({**facts, "packages": PACKAGES, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
