"""The loaders that `loader.py` compares, and writers of their data: ours, zarr-python, three peers, and pickles as in the official code."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from samdiff.pipeline.stream.crops import crop_flip, plan_crops

PATCH, BATCH, WORKERS, SCALE, TILE = 160, 16, 2, 4, 320
SHAPES = {"hr": ((TILE, TILE, 3), "u1"), "lr": ((TILE // SCALE,) * 2 + (3,), "u1"), "labels": ((TILE, TILE), "u2")}


def tiles(work: Path) -> dict[str, np.ndarray]:
    """The store's tiles, decoded once by `prepare` below."""
    return {name: np.load(work / f"{name}.npy", mmap_mode="r") for name in SHAPES}


def cut(sample: dict[str, object]) -> dict[str, np.ndarray]:
    """One aligned crop, flipped or transposed at random, of raw bytes or arrays."""
    arrays = {
        name: sample[name] if isinstance(sample[name], np.ndarray) else np.frombuffer(sample[name], kind).reshape(shape)
        for name, (shape, kind) in SHAPES.items()
    }
    plan = plan_crops(np.random.randint(2**31, size=1), tile_lr=TILE // SCALE, patch_lr=PATCH // SCALE, seed=0)[0]
    return {n: crop_flip(a, plan, patch_lr=PATCH // SCALE, factor=1 if n == "lr" else SCALE) for n, a in arrays.items()}


def torch_loader(data: Any, collate: Callable | None = None, **more: Any) -> Iterator[object]:
    """PyTorch's DataLoader, repeated, so that the measurement does not end with an epoch."""
    loader = DataLoader(data, BATCH, num_workers=WORKERS, collate_fn=collate, drop_last=True, persistent_workers=True, **more)
    while True:
        yield from loader


def ours(store: str, work: Path) -> Iterator[object]:
    """Threads, as in `samdiff train`."""
    from samdiff import ShardDataset, ShardLoader

    return iter(ShardLoader(ShardDataset(store, PATCH), BATCH, workers=WORKERS))


def ours_processes(store: str, work: Path) -> Iterator[object]:
    """Worker processes of PyTorch's DataLoader."""
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


def zarr_python(store: str, work: Path) -> Iterator[object]:
    """zarr-python, single reads."""
    return torch_loader(ZarrTiles(store, len(tiles(work)["hr"])), shuffle=True)


def mosaicml(store: str, work: Path) -> Iterator[object]:
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


def webdataset(store: str, work: Path) -> Iterator[object]:
    """WebDataset, raw bytes in tar files of at most 60 tiles, at least one for each worker."""
    import webdataset as wds

    urls = sorted(str(path) for path in (work / "webdataset").glob("*.tar"))
    data = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(200).map(cut).batched(BATCH, collation_fn=default_collate)
    loader = wds.WebLoader(data, batch_size=None, num_workers=WORKERS, persistent_workers=True)
    while True:
        yield from loader


def write_webdataset(work: Path) -> None:
    import webdataset as wds

    (work / "webdataset").mkdir()
    rows = tiles(work)
    most = min(60, -(-len(rows["hr"]) // WORKERS))  # a worker without a file is an error of WebDataset
    with wds.ShardWriter(str(work / "webdataset/%04d.tar"), maxcount=most, verbose=0) as writer:
        for number, row in enumerate(zip(*rows.values(), strict=True)):
            writer.write({"__key__": f"{number:06d}"} | {n: v.tobytes() for n, v in zip(SHAPES, row, strict=True)})


def litdata(store: str, work: Path) -> Iterator[object]:
    """LitData, raw bytes."""
    from litdata import StreamingDataLoader, StreamingDataset

    class Crops(StreamingDataset):
        def __getitem__(self, index: object) -> dict[str, np.ndarray]:
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
    """Plain bicubic resizing with MATLAB's kernel: each output row is a weighted sum of input rows."""
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
    """One file of pickled tiles with an index; LR is made from HR and upsampled for each sample."""

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
        images = {"hr": hr / 255, "lr": lr / 255, "up": up}
        tensors = {name: torch.from_numpy(a.transpose(2, 0, 1).copy() * 2 - 1).float() for name, a in images.items()}
        return tensors | {"labels": torch.from_numpy(labels.astype(np.float32))}


def plain_pickle(store: str, work: Path) -> Iterator[object]:
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
