"""Samples/s of loaders on the same 320-px tiles: crop 160 with flips, batch 16, shuffled, two workers each.

    samdiff prepare IMAGES --out tiles.zarr
    python benchmarks/loader.py tiles.zarr --work /tmp/loaders [--peers /tmp/peers] [--only ours,mosaicml] [--rounds 3]

Ours, threads and worker processes; zarr-python, one tile at a time; pickles with LR made and upsampled per sample in plain NumPy
loops, the way of the first diffusion-SR repositories (own code); and three peers, each in an environment of its own, because
their pins collide. A peer that is not there is left out with a line that says so. To set one up beside the PyTorch of this environment:

    python benchmarks/loader.py --make-peer mosaicml --peers /tmp/peers         (likewise webdataset, litdata)
    /tmp/peers/mosaicml/bin/python -m pip install mosaicml-streaming            (likewise webdataset, litdata)

`--make-peer` makes a virtual environment that finds what this one has installed. samdiff itself comes from where this file's environment
imports it, however it is installed: each child process gets a folder with a link to it on its path.

The peers store raw bytes (HR and LR uint8, labels uint16), their fastest form, and cut and flip with our function. Every loader runs in a
process of its own, in turns, `rounds` times; the best round counts, because other work on the machine only ever slows a loader down.
"""

import argparse
import json
import os
import shutil
import site
import subprocess
import sys
import time
import venv
from pathlib import Path

import cv2
import numpy as np
import torch
from peers import BATCH, LOADERS, PATCH, SCALE, SHAPES, TILE, WORKERS, tiles


def measure(name: str, store: str, work: Path, seconds: float) -> dict[str, float]:
    """Time to the first batch, then samples/s over `seconds` after a warm-up of a third of that."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    start = time.perf_counter()
    batches = LOADERS[name][0](store, work)
    next(batches)
    first = time.perf_counter() - start
    warm = time.perf_counter() + seconds / 3
    while time.perf_counter() < warm:
        next(batches)
    start, samples = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        next(batches)
        samples += BATCH
    return {"rate": samples / (time.perf_counter() - start), "first": first}


def megabytes(folder: Path) -> float:
    """MB of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def decode(store: str, work: Path) -> None:
    """The tiles as plain arrays, for conversion by the peers."""
    from samdiff import open_store

    work.mkdir(parents=True, exist_ok=True)
    opened = open_store(store)
    assert (opened.tile, opened.scale) == (TILE, SCALE), f"tiles of {TILE} px at x{SCALE} are needed, got {opened}"
    for name in SHAPES:
        np.save(work / f"{name}.npy", opened.read_tiles(name, range(len(opened))))


def import_folder(work: Path) -> Path:
    """A folder that makes this samdiff importable in any environment, since an editable install belongs to one environment."""
    import samdiff

    folder = (work / "import").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    link, package = folder / "samdiff", Path(samdiff.__file__).resolve().parent
    if not (link.is_symlink() and link.resolve() == package):
        link.unlink(missing_ok=True)
        link.symlink_to(package, target_is_directory=True)
    return folder


def make_peer(name: str, peers: Path, with_pip: bool = True) -> Path:
    """A virtual environment for a peer that also finds the packages of this one; returns its Python."""
    venv.create(peers / name, with_pip=with_pip, symlinks=True)
    (own,) = (peers / name).glob("lib/python*/site-packages")
    (own / "shared.pth").write_text("".join(f"{folder}\n" for folder in site.getsitepackages()))
    return peers / name / "bin/python"


def child(python: Path | str, name: str, action: str, arguments: argparse.Namespace) -> str | None:
    """Run one loader in its own process. Returns its last output line; None, and prints an error, if it failed."""
    command = [str(python), __file__, arguments.store, "--work", str(arguments.work), "--seconds", str(arguments.seconds)]
    folders = {"TMPDIR": "tmp", "DATA_OPTIMIZER_CACHE_FOLDER": "cache/c", "DATA_OPTIMIZER_DATA_CACHE_FOLDER": "cache/d"}
    places = {key: str(arguments.work / folder) for key, folder in folders.items()}  # LitData empties these folders
    for folder in places.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [str(import_folder(arguments.work)), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **places, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([*command, action, name], capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    print(f"{name}: failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return None


def compare(arguments: argparse.Namespace) -> None:
    """Convert the tiles, measure all loaders alternately, print the table."""
    decode(arguments.store, arguments.work)
    chosen, results = {}, {}
    for name, (_, write, folder, own) in LOADERS.items():
        python = arguments.peers / name / "bin/python" if own else Path(sys.executable)
        if arguments.only and name not in arguments.only.split(","):
            continue
        if not python.exists():
            print(f"{name}: skipped, {python} is missing (see the docstring of this file)")
        elif not write or (arguments.work / folder).exists() or child(python, name, "--write", arguments=arguments) is not None:
            chosen[name] = python
        else:
            shutil.rmtree(
                arguments.work / folder, ignore_errors=True
            )  # half of the data would be taken for all of it by the next run
    for _ in range(arguments.rounds):
        for name, python in chosen.items():
            if line := child(python, name, "--measure", arguments=arguments):
                results.setdefault(name, []).append(json.loads(line))
    print(
        f"{len(tiles(arguments.work)['hr'])} tiles, crop {PATCH}, batch {BATCH}, {WORKERS} workers, best of {arguments.rounds} rounds"
    )
    print(f"{'loader':16s} samples/s   (rounds)                MB on disk   first batch s")
    best = {name: max(r["rate"] for r in rounds) for name, rounds in results.items()}
    size = {n: megabytes(arguments.work / f if (f := LOADERS[n][2]) else Path(arguments.store)) for n in results}
    for name, rounds in results.items():
        each = " ".join(f"{r['rate']:.0f}" for r in rounds)
        print(f"{name:16s} {best[name]:9.0f}   ({each:20s}) {size[name]:12.1f} {min(r['first'] for r in rounds):15.2f}")
    for name in best:
        if name != "ours" and "ours" in best:
            print(
                f"ours / {name}: {best['ours'] / best[name]:.2f} times the rate, {100 * size['ours'] / size[name]:.0f} % of the bytes"
            )


def main() -> None:
    """Compare all loaders, or run one of them in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", nargs="?", default="")
    parser.add_argument("--work", type=Path, help="folder for the peers' copies of the tiles")
    parser.add_argument("--make-peer", metavar="NAME", help="only make the environment of a peer in --peers")
    parser.add_argument("--peers", type=Path, default=Path("/nonexistent"), help="folder of environments named as the peers")
    parser.add_argument("--only", default="", help="names of loaders, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_peer:
        print(
            f"{make_peer(arguments.make_peer, arguments.peers)} -m pip install …  (the docstring of this file names the package)"
        )
        return
    if not arguments.store or arguments.work is None:
        parser.error("expected a store and --work FOLDER")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.store, arguments.work, seconds=arguments.seconds)), flush=True)
        os._exit(0)  # without waiting for threads and processes of the peers
    elif arguments.write:
        LOADERS[arguments.write][1](arguments.work)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
