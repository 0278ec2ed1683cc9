"""kill -9 anywhere, and disks that fail: the same command ends in the same bytes, and no image is segmented twice."""

import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from samdiff.errors import StoreError
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.staging import Staging
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.storage import local as keystore

from ..workers.test_cluster import photo, stored
from .test_prepare import PositionMasks, position_image, write

SETTINGS = PrepareConfig(scale=4, tile=64)


class Lives:
    """Runs `prepare` in processes that can be killed; see killed.py."""

    def __init__(self, process: subprocess.Popen[str], source: Path) -> None:
        self.process, self.source = process, source

    def run(self, out: Path, log: Path, kill_after: float | None = None, die_at: int | None = None) -> tuple[int, int]:
        """(exit status, peak memory in KiB) of one life."""
        job = {"source": str(self.source), "out": str(out), "log": str(log), "die_at": die_at}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)  # not yet waited for, if it was faster
        status, memory = self.process.stdout.readline().split()
        return int(status), int(memory)


@contextmanager
def lives(kind: str, source: Path) -> Iterator[Lives]:
    command = [sys.executable, str(Path(__file__).parents[2] / "helpers" / "killed.py"), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield Lives(process, source)
    process.stdin.close()
    assert process.wait(30) == 0


def chain(tmp_path: Path, images: int, kills: int, seed: int) -> None:
    """Kill a chain of lives, by the clock and in the middle of writes; then let one live."""
    random, source = np.random.default_rng(seed), tmp_path / "photos"
    content = {}
    for number in range(images):
        path = write(source / f"{number}.png", photo(number))
        pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        content[hashlib.sha256(pixels.tobytes()).hexdigest()] = hashlib.sha256(path.read_bytes()).hexdigest()
    whole, part, log = tmp_path / "whole.zarr", tmp_path / "part.zarr", tmp_path / "log"
    with lives("real", source) as life:
        start = time.perf_counter()
        assert life.run(whole, log)[0] == 0
        each = (time.perf_counter() - start) / images
        writes, killed, inside_a_write = images + len(stored(whole)), 0, 0
        while killed < kills:
            left = kills - killed
            committed = Staging(part).finished()
            log.unlink(missing_ok=True)
            if left <= 7 * kills // 10:  # all over the files that are still to be written
                status, _ = life.run(part, log, die_at=int(random.integers(1, max(2, (writes - len(committed)) // left))))
                inside_a_write += status == -signal.SIGKILL
            else:
                status, _ = life.run(part, log, kill_after=float(random.uniform(0.1, 1.0) * each))
            shown = {content[line] for line in log.read_text().splitlines()} if log.exists() else set()
            assert not shown & committed  # nothing committed is segmented again
            if status == 0:  # faster than its killer: the chain continues with a new store
                part.rename(tmp_path / f"done{killed}.zarr")
                continue
            assert status == -signal.SIGKILL
            killed += 1
        assert inside_a_write
        assert life.run(part, log)[0] == 0
        assert stored(part) == stored(whole)
        for early in tmp_path.glob("done*.zarr"):
            assert stored(early) == stored(whole)
        log.unlink(missing_ok=True)
        assert life.run(part, log)[0] == 0
        assert not log.exists()  # complete: nothing to do
    assert not list(tmp_path.glob("*.staging"))
    assert open_store(whole).n_masks > 3


@pytest.mark.weights
def test_ten_kills(mobile_sam, tmp_path):
    """Real weights, 256-px images, a 4 x 4 grid."""
    chain(tmp_path, images=2, kills=10, seed=0)


@pytest.mark.slow
@pytest.mark.weights
def test_sixty_kills(mobile_sam, tmp_path):
    """The same, longer."""
    chain(tmp_path, images=20, kills=60, seed=1)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """20 against 400 small images: at most 24 MiB more at the peak (a shard and the tables' buffers)."""
    peaks = []
    for images in (20, 400):
        source = tmp_path / f"{images}"
        for number in range(images):
            write(source / f"{number:03d}.png", photo(number))
        with lives("cheap", source) as life:
            status, memory = life.run(tmp_path / f"{images}.zarr", tmp_path / "log")
        assert status == 0
        peaks.append(memory)
    assert len(open_store(tmp_path / "400.zarr")) == 1600
    assert peaks[1] - peaks[0] < 24 * 1024, peaks


@pytest.fixture
def photos(tmp_path) -> Path:
    write(tmp_path / "photos" / "a.png", position_image(160, 188, 10))
    write(tmp_path / "photos" / "b.png", position_image(100, 128, 20))
    return tmp_path / "photos"


def test_a_full_disk(photos, tmp_path, monkeypatch):
    """At any write: an error that says what to do, no partial file, nothing lost; the same bytes in the end."""
    whole, part = tmp_path / "whole.zarr", tmp_path / "part.zarr"
    prepare(photos, whole, PositionMasks(), SETTINGS)
    real, count, seen = os.fsync, [0], 0
    for stop in (0, 2, 5, 30):

        def full(descriptor, stop=stop):
            count[0] += 1
            if count[0] > stop:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        count[0], masks = 0, PositionMasks()
        monkeypatch.setattr(keystore.os, "fsync", full)
        with pytest.raises(StoreError, match=r"part\.zarr.*cannot be written: No space left.*free some space.*resumes"):
            prepare(photos, part, masks, SETTINGS)
        monkeypatch.setattr(keystore.os, "fsync", real)
        seen += len(masks.seen)
        assert not list(tmp_path.rglob("*.partial"))
    prepare(photos, part, last := PositionMasks(), SETTINGS)
    assert last.seen == []
    assert seen <= 4  # an image whose record could not be written is done again, a committed one is not
    assert stored(part) == stored(whole)


def test_a_real_limit_on_file_sizes(photos, tmp_path):
    """RLIMIT_FSIZE at 8 KiB lets records through and stops the first shard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written: File too large; raise the limit"):
            prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    prepare(photos, tmp_path / "x.zarr", again := PositionMasks(), SETTINGS)
    assert again.seen == []


def test_a_folder_that_cannot_be_written(photos):
    """As another user where we are root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chmod(folder, stat.S_IRUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        root, pictures = os.geteuid() == 0, [(path.name, path.read_bytes()) for path in sorted(photos.iterdir())]
        with tempfile.TemporaryDirectory() as readable:
            os.chmod(readable, 0o755)
            for picture, data in pictures:
                (Path(readable) / picture).write_bytes(data)
            if root:
                os.seteuid(65534)
            try:
                with pytest.raises(StoreError, match="cannot be written: Permission denied; check the permissions"):
                    prepare(readable, folder / "x.zarr", PositionMasks(), SETTINGS)
            finally:
                if root:
                    os.seteuid(0)
        assert list(folder.iterdir()) == []
        os.chmod(folder, 0o755)


def test_what_is_left_between_commit_and_end_goes(photos, tmp_path):
    """Killed after the root was written: the next run says complete and sweeps the records."""
    out, left = tmp_path / "x.zarr", tmp_path / "x.zarr.staging"
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, out, PositionMasks(fail_after=1), SETTINGS)
    shutil.copytree(left, tmp_path / "left")
    prepare(photos, out, PositionMasks(), SETTINGS)
    assert not left.exists()
    (tmp_path / "left").rename(left)
    assert prepare(photos, out, PositionMasks(), SETTINGS).already_complete
    assert not left.exists()
    left.mkdir()
    (left / "lock").write_text("process 7 on host")  # killed while it removed the last of them
    assert prepare(photos, out, PositionMasks(), SETTINGS).already_complete
    assert not left.exists()
