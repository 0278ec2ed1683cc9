"""Builds the upscaler for browsers as a folder of static files: `make web`.

    python web/build.py build/web [--only student|rrdb] [--checkpoint FILE] [--static N] [--calibrate STORE]

The folder holds the page, its worker, onnxruntime-web from npm (MIT), and the network twice: int8 for CPUs, float32 for GPUs (WebGPU).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from samdiff.errors import ConfigError, SamdiffError
from samdiff.model.checkpoints.format import SHIPPED_NAME, SHIPPED_STUDENT, load_checkpoint
from samdiff.model.export.calibration import read_patches
from samdiff.model.export.tile_export import export_tile

HERE = Path(__file__).resolve().parent
PAGE = ("index.html", "style.css", "app.js", "worker.js", "tiles.js")
ORT, ORT_SHA256 = "1.30.0", "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
"""Version of onnxruntime-web, and SHA-256 of its package."""
ORT_CPU = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
ORT_GPU = ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")
SIDE = 64
_MOST_BYTES = 64 << 20  # of a member of the package


def fetch_ort(cache: Path) -> Path:
    """The package onnxruntime-web as npm gives it, kept in `cache`. ConfigError if npm is missing, or the content is another."""
    file = cache / f"onnxruntime-web-{ORT}.tgz"
    if not file.exists():
        if shutil.which("npm") is None:
            raise ConfigError(
                f"make web: needs npm, to fetch onnxruntime-web {ORT}; install Node.js, or put the package at {file}"
            )
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "pack", f"onnxruntime-web@{ORT}", "--silent"], cwd=cache, capture_output=True, text=True, check=False
        )
        if done.returncode or not file.exists():
            raise ConfigError(f"make web: npm could not fetch onnxruntime-web {ORT}: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != ORT_SHA256:
        raise ConfigError(f"{file}: expected SHA-256 {ORT_SHA256}, got {found}; delete it, and run make web again")
    return file


def unpack(package: Path, names: tuple[str, ...], folder: Path) -> None:
    """Write files of the package's `dist` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        for name in names:
            member = archive.getmember(f"package/dist/{name}")
            opened = archive.extractfile(member)
            if opened is None or member.size > _MOST_BYTES:
                raise ConfigError(f"{package}: {name} is no file, or too large")
            (folder / name).write_bytes(opened.read())


def build(out: Path, *, checkpoint: str, only: str, side: int, calibrate: Path, cache: Path) -> dict[str, object]:
    """Write the whole page into a folder, whose files of these names are replaced. Returns the manifests by processor."""
    package = fetch_ort(cache)
    loaded = load_checkpoint(Path(checkpoint), kind=("diffusion", "student", "rrdb"))
    patches = read_patches(calibrate, scale=int(str(loaded.config["scale"])), side=side)
    models: dict[str, object] = {}
    for processor, precision in (("cpu", "int8"), ("gpu", "fp32")):
        files, _ = export_tile(
            loaded, checkpoint, out / "models", only=only, side=side, precision=precision, patches=patches, overwrite=True
        )
        models[processor] = json.loads(files[1].read_text())
    (out / "models" / "models.json").write_text(json.dumps(models, indent=1) + "\n")
    unpack(package, (*ORT_CPU, *ORT_GPU), out / "ort")
    for name in PAGE:
        shutil.copyfile(HERE / name, out / name)
    return models


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", choices=("student", "rrdb"), default="student")
    parser.add_argument("--checkpoint", help="a model with the network; default: shipped-student, or shipped for --only rrdb")
    parser.add_argument(
        "--static",
        type=int,
        default=SIDE,
        metavar="N",
        help=f"LR pixels of a tile's side; default: {SIDE}. 128 is faster on photos, and needs larger images for --calibrate",
    )
    parser.add_argument("--calibrate", type=Path, default=Path("samples"), help="a store or a folder of HR images")
    given = parser.parse_args()
    try:
        build(
            given.out,
            checkpoint=given.checkpoint or (SHIPPED_STUDENT if given.only == "student" else SHIPPED_NAME),
            only=given.only,
            side=given.static,
            calibrate=given.calibrate,
            cache=given.out.parent / "npm",
        )
    except SamdiffError as error:
        sys.exit(f"web: {error}")
    size = sum(file.stat().st_size for file in given.out.rglob("*") if file.is_file())
    sys.stdout.write(f"{given.out}: {size / 1e6:.1f} MB; try it with: python web/serve.py {given.out}\n")


if __name__ == "__main__":
    main()
