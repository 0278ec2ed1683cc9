"""The mask stage on Dask: a real scheduler and worker processes on loopback, real MobileSAM weights."""

import importlib.util
import logging
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import LocalCluster

from samdiff.commands.common import set_verbosity
from samdiff.errors import ConfigError, SamdiffError
from samdiff.pipeline.masks.generator import MaskGenerator
from samdiff.pipeline.prepare.mask_stage import make_generator
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.storage.local import LocalStore
from samdiff.pipeline.workers import dask_cluster as crews
from samdiff.pipeline.workers.dask_cluster import DaskWorkers
from samdiff.runtime import setup_process

from ..prepare.test_prepare import write

SETTINGS = PrepareConfig(scale=4, tile=128)


def photo(seed: int) -> np.ndarray:
    """Soft discs on a ramp, 256 x 256: something to segment."""
    random, (y, x) = np.random.default_rng(seed), np.mgrid[:256, :256]
    image = np.stack([y // 2, x // 2, (x + y) // 4], axis=-1).astype(np.float64)
    for _ in range(6):
        centre, radius = random.integers(30, 226, 2), random.integers(12, 50)
        image[np.hypot(y - centre[0], x - centre[1]) < radius] = random.integers(0, 255, 3)
    return image.astype(np.uint8)


def stored(path: Path) -> dict[str, bytes]:
    folder = LocalStore(path)
    return {key: folder.get(key) for key in folder.list_keys()}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(2):
        write(folder / f"{seed}.png", photo(seed))
    write(folder / "small.png", photo(9)[:40])
    return folder


@pytest.mark.weights
def test_a_cluster_makes_the_same_bytes_even_if_a_worker_dies(photos, mobile_sam, tmp_path):
    """Two workers behind a scheduler's address; one is killed with -9 while it is at work."""
    local = MaskGenerator(mobile_sam, points_per_side=4)
    threads = torch.get_num_threads()
    setup_process(1)
    try:
        report = prepare(photos, tmp_path / "local.zarr", local, SETTINGS)
    finally:
        setup_process(threads)
    assert report.masks > 3
    make = partial(make_generator, "mobile_sam", "cpu", source="npm", points_per_side=4)
    saved: list[str] = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        DaskWorkers(make, local.describe(), address=cluster.scheduler_address) as crew,
    ):
        victim = next(iter(cluster.workers.values())).pid

        def mask_stage(items, read):
            for item, result in crew.records(items, read):
                if not saved:
                    os.kill(victim, signal.SIGKILL)
                saved.append(item.image_file.name)
                yield item, result

        report = prepare(photos, tmp_path / "dask.zarr", local, SETTINGS, mask_stage=mask_stage)
    assert sorted(saved) == sorted(["0.png", "1.png", "small.png"])
    assert report.skipped == open_store(tmp_path / "local.zarr").skipped()
    assert stored(tmp_path / "dask.zarr") == stored(tmp_path / "local.zarr")


def test_a_worker_with_another_segmenter_is_refused(photos, mobile_sam, tmp_path):
    """Other parameters there than here: an error that shows the difference, nothing stored."""
    local = MaskGenerator(mobile_sam, points_per_side=4)
    make = partial(make_generator, "mobile_sam", "cpu", source="npm", points_per_side=3)
    with (
        DaskWorkers(make, local.describe(), workers=1) as crew,
        pytest.raises(SamdiffError, match="a different segmenter .points_per_side: was 4, now 3"),
    ):
        prepare(photos, tmp_path / "x.zarr", local, SETTINGS, mask_stage=crew.records)
    assert not (tmp_path / "x.zarr").exists()


def test_no_scheduler_there(monkeypatch):
    """The address is named, and what to start."""
    monkeypatch.setattr(crews, "_WAIT", 1)
    with pytest.raises(ConfigError, match=r"--dask tcp://127.0.0.1:9: no scheduler .* start `dask scheduler`"):
        DaskWorkers(lambda: None, {"name": "x"}, address="tcp://127.0.0.1:9")


def test_the_dashboard_is_offered_only_where_it_can_be_drawn(monkeypatch):
    """bokeh draws it."""
    crew = DaskWorkers.__new__(DaskWorkers)
    crew.client = type("Client", (), {"dashboard_link": "http://127.0.0.1:8787/status"})()
    for spec, link in ((None, None), (object(), "http://127.0.0.1:8787/status")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        assert crew.dashboard == link


@pytest.mark.parametrize(("verbose", "shown"), [(0, False), (1, False), (2, True)])
def test_dask_is_quiet_below_vv(verbose, shown):
    """None of its lines, errors at the end of workers among them; its levels are as they were afterwards."""
    names = ("", "samdiff", "distributed", "distributed.scheduler")
    before = [logging.getLogger(name).level for name in names]
    try:
        logging.getLogger().setLevel(logging.WARNING)
        set_verbosity(verbose, quiet=False)
        with crews._quiet():
            assert logging.getLogger("distributed.scheduler").isEnabledFor(logging.ERROR) == shown
            assert logging.getLogger("distributed.nanny").isEnabledFor(logging.WARNING) == shown
        assert [logging.getLogger(name).level for name in names[2:]] == before[2:]
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
