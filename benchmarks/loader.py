"""Samples/s of loaders on the same 320-px tiles: crop 160 with flips, batch 16, shuffled, two workers each.

    samdiff prepare PHOTOGRAPHS --out tiles.zarr
    python benchmarks/loader.py tiles.zarr --work /tmp/loaders [--peers /tmp/peers] [--only ours,mosaicml] [--rounds 3]

Ours, threads and worker processes; zarr-python, one tile at a time; pickles with LR made and enlarged per sample in plain NumPy
loops, the way of the first diffusion-SR repositories (own code); and three peers, each in an environment of its own, because
their pins collide. A peer that is not there is left out with a line that says so. To set one up beside PyTorch that is there already:

    python -m venv /tmp/peers/mosaicml
    python -c "import site; print(site.getsitepackages()[0])" > /tmp/peers/mosaicml/lib/python3.11/site-packages/shared.pth
    /tmp/peers/mosaicml/bin/pip install mosaicml-streaming      (likewise webdataset: webdataset, litdata: litdata)

The peers store raw bytes (HR and LR uint8, labels uint16), their fastest form, and cut and flip with our function. Every loader runs in a
process of its own, in turns, `rounds` times; the best round counts, because other work on the machine only ever slows a loader down.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from samdiff.pipeline.stream import crop_flip, plan_crops

PATCH, BATCH, WORKERS, SCALE, TILE = 160, 16, 2, 4, 320
SHAPES = {"hr": ((TILE, TILE, 3), "u1"), "lr": ((TILE // SCALE,) * 2 + (3,), "u1"), "labels": ((TILE, TILE), "u2")}


def tiles(work: Path) -> dict[str, np.ndarray]:
    """The store's tiles, decoded once by `prepare` below."""
    return {name: np.load(work / f"{name}.npy", mmap_mode="r") for name in SHAPES}


def cut(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    """One aligned crop, flipped or transposed at random, of raw bytes or arrays."""
    arrays = {
        name: sample[name] if isinstance(sample[name], np.ndarray) else np.frombuffer(sample[name], kind).reshape(shape)
        for name, (shape, kind) in SHAPES.items()
    }
    plan = plan_crops(np.random.randint(2**31, size=1), TILE // SCALE, PATCH // SCALE, 0)[0]
    return {n: crop_flip(a, plan, PATCH // SCALE, 1 if n == "lr" else SCALE) for n, a in arrays.items()}


def torch_loader(data: Any, collate: Callable | None = None, **more: Any) -> Iterator[Any]:
    """PyTorch's loader over and over, so that epochs of a small set do not end the measurement."""
    loader = DataLoader(data, BATCH, num_workers=WORKERS, collate_fn=collate, drop_last=True, persistent_workers=True, **more)
    while True:
        yield from loader


def ours(store: str, work: Path) -> Iterator[Any]:
    """Threads: what `samdiff train` uses."""
    from samdiff import ShardDataset, ShardLoader

    return iter(ShardLoader(ShardDataset(store, PATCH), BATCH, workers=WORKERS))


def ours_processes(store: str, work: Path) -> Iterator[Any]:
    """Worker processes of PyTorch's loader."""
    from samdiff import ShardDataset, ShardStream

    stream = ShardStream(ShardDataset(store, PATCH), BATCH, steps=10**9)
    return iter(DataLoader(stream, batch_size=None, num_workers=WORKERS))


class ZarrTiles(Dataset):
    """zarr-python's own reader on our store, one tile of each array at a time."""

    def __init__(self, store: str, n: int) -> None:
        self.store, self.n, self.group = store, n, None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        import zarr

        if self.group is None:
            self.group = zarr.open_group(self.store, mode="r")
        return cut({name: np.asarray(self.group[f"tiles/{name}"][row]) for name in SHAPES})


def zarr_python(store: str, work: Path) -> Iterator[Any]:
    """zarr-python, single reads."""
    return torch_loader(ZarrTiles(store, len(tiles(work)["hr"])), shuffle=True)


def mosaicml(store: str, work: Path) -> Iterator[Any]:
    """MosaicML streaming, raw bytes."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()

    class Crops(StreamingDataset):
        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            return cut(super().__getitem__(index))

    return torch_loader(Crops(local=str(work / "mosaicml"), shuffle=True, batch_size=BATCH))


def write_mosaicml(work: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(work / "mosaicml"), columns=dict.fromkeys(SHAPES, "bytes")) as writer:
        for row in zip(*tiles(work).values(), strict=True):
            writer.write({name: value.tobytes() for name, value in zip(SHAPES, row, strict=True)})


def webdataset(store: str, work: Path) -> Iterator[Any]:
    """WebDataset, raw bytes in tar files of 60 tiles."""
    import webdataset as wds

    urls = sorted(str(path) for path in (work / "webdataset").glob("*.tar"))
    data = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(200).map(cut).batched(BATCH, collation_fn=default_collate)
    loader = wds.WebLoader(data, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    while True:
        yield from loader


def write_webdataset(work: Path) -> None:
    import webdataset as wds

    (work / "webdataset").mkdir()
    with wds.ShardWriter(str(work / "webdataset/%04d.tar"), maxcount=60, verbose=0) as writer:
        for number, row in enumerate(zip(*tiles(work).values(), strict=True)):
            writer.write({"__key__": f"{number:06d}"} | {n: v.tobytes() for n, v in zip(SHAPES, row, strict=True)})


def litdata(store: str, work: Path) -> Iterator[Any]:
    """LitData, raw bytes."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Crops(StreamingDataset):
        def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
            return cut(super().__getitem__(index))

    data = Crops(str(work / "litdata"), shuffle=True, drop_last=True)
    loader = StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True, drop_last=True)
    while True:
        yield from loader


def _litdata_sample(task: tuple[str, int]) -> dict[str, bytes]:
    return {name: values[task[1]].tobytes() for name, values in tiles(Path(task[0])).items()}


def write_litdata(work: Path) -> None:
    from litdata import optimize

    n = len(tiles(work)["hr"])
    inputs = [(str(work), i) for i in range(n)]
    optimize(_litdata_sample, inputs, output_dir=str(work / "litdata"), chunk_bytes="64MB", num_workers=1)


def plain_resize(image: np.ndarray, scale: float) -> np.ndarray:
    """Bicubic with MATLAB's kernel, straightforwardly: for each row of the result, the weighted sum of the rows it needs."""
    for _ in range(2):
        size = round(image.shape[0] * scale)
        stretch, out = min(1.0, scale), np.empty((size, *image.shape[1:]))
        for i in range(size):
            centre = (i + 0.5) / scale - 0.5
            taps = np.arange(int(np.floor(centre - 2 / stretch)), int(np.ceil(centre + 2 / stretch)) + 1)
            x = np.abs(centre - taps) * stretch
            near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            weights = np.where(x <= 1, near, np.where(x <= 2, far, 0))
            rows = np.pad(image, [(16, 16), (0, 0), (0, 0)], "symmetric")[taps + 16]
            out[i] = (rows * (weights / weights.sum())[:, None, None]).sum(axis=0)
        image = out.swapaxes(0, 1)
    return image


class Pickles(Dataset):
    """One file of pickled tiles with an index; flips by LR made anew, LR enlarged for each sample."""

    def __init__(self, work: Path) -> None:
        self.path, self.edges = work / "pickle/train.data", np.load(work / "pickle/train.npy")

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        with open(self.path, "rb") as file:
            file.seek(self.edges[row])
            item = pickle.loads(file.read(self.edges[row + 1] - self.edges[row]))  # noqa: S301
        hr, lr, labels = item["hr"], item["lr"], item["labels"]
        if np.random.random() < 0.5:
            hr, labels = hr[:, ::-1], labels[:, ::-1]
            lr = np.clip(np.round(plain_resize(hr, 1 / SCALE)), 0, 255).astype(np.uint8)
        y, x = np.random.randint(0, (TILE - PATCH) // SCALE + 1, 2)
        lr = lr[y : y + PATCH // SCALE, x : x + PATCH // SCALE]
        y_hr, x_hr = y * SCALE, x * SCALE
        up = plain_resize(lr / 255, SCALE)
        hr, labels = (a[y_hr : y_hr + PATCH, x_hr : x_hr + PATCH] for a in (hr, labels))
        pictures = {"hr": hr / 255, "lr": lr / 255, "up": up}
        tensors = {name: torch.from_numpy(a.transpose(2, 0, 1).copy() * 2 - 1).float() for name, a in pictures.items()}
        return tensors | {"labels": torch.from_numpy(labels.astype(np.float32))}


def plain_pickle(store: str, work: Path) -> Iterator[Any]:
    """Pickles, with resizing per sample in NumPy."""
    return torch_loader(Pickles(work), shuffle=True)


def write_plain_pickle(work: Path) -> None:
    (work / "pickle").mkdir()
    edges = [0]
    with open(work / "pickle/train.data", "wb") as file:
        for row in zip(*tiles(work).values(), strict=True):
            file.write(pickle.dumps({name: np.array(value) for name, value in zip(SHAPES, row, strict=True)}))
            edges.append(file.tell())
    np.save(work / "pickle/train.npy", np.array(edges))


# name -> loader, writer of its data, folder of its data (None: the store), environment of its own
LOADERS: dict[str, tuple[Callable, Callable | None, str | None, bool]] = {
    "ours": (ours, None, None, False),
    "ours, processes": (ours_processes, None, None, False),
    "mosaicml": (mosaicml, write_mosaicml, "mosaicml", True),
    "webdataset": (webdataset, write_webdataset, "webdataset", True),
    "litdata": (litdata, write_litdata, "litdata", True),
    "zarr-python": (zarr_python, None, None, False),
    "plain pickle": (plain_pickle, write_plain_pickle, "pickle", False),
}


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
    """The tiles as plain arrays, for the peers to convert."""
    from samdiff import open_store

    work.mkdir(parents=True, exist_ok=True)
    opened = open_store(store)
    assert (opened.tile, opened.scale) == (TILE, SCALE), f"tiles of {TILE} px at x{SCALE} are needed, got {opened}"
    for name in SHAPES:
        np.save(work / f"{name}.npy", opened.read_tiles(name, range(len(opened))))


def child(python: Path | str, name: str, action: str, arguments: argparse.Namespace) -> str | None:
    """Run one loader in a process of its own; the last line of what it printed, None (and a line) if it failed."""
    command = [str(python), __file__, arguments.store, "--work", str(arguments.work), "--seconds", str(arguments.seconds)]
    folders = {"TMPDIR": "tmp", "DATA_OPTIMIZER_CACHE_FOLDER": "cache/c", "DATA_OPTIMIZER_DATA_CACHE_FOLDER": "cache/d"}
    places = {key: str(arguments.work / folder) for key, folder in folders.items()}  # LitData empties these folders
    for folder in places.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, action, name], capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    print(f"{name}: failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
    return None


def compare(arguments: argparse.Namespace) -> None:
    """Convert, measure in turns, print the table."""
    decode(arguments.store, arguments.work)
    chosen, results = {}, {}
    for name, (_, write, folder, own) in LOADERS.items():
        python = arguments.peers / name / "bin/python" if own else Path(sys.executable)
        if arguments.only and name not in arguments.only.split(","):
            continue
        if not python.exists():
            print(f"{name}: left out, there is no {python} (the head of this file says how to set it up)")
        elif not write or (arguments.work / folder).exists() or child(python, name, "--write", arguments) is not None:
            chosen[name] = python
    for _ in range(arguments.rounds):
        for name, python in chosen.items():
            if line := child(python, name, "--measure", arguments):
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
    """Compare all, or do one loader's part in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--work", type=Path, required=True, help="folder for the peers' copies of the tiles")
    parser.add_argument("--peers", type=Path, default=Path("/nonexistent"), help="folder of environments named as the peers")
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.store, arguments.work, arguments.seconds)), flush=True)
        os._exit(0)  # the peers' own threads and processes need not be waited for
    elif arguments.write:
        LOADERS[arguments.write][1](arguments.work)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
