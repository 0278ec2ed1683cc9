"""`--workers` and `--dask`: every image comes out, whatever dies, and nobody else is let in."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import dask.config
import numpy as np
import psutil
import pytest
from distributed import Client, LocalCluster, Security

from samdiff.errors import ConfigError, ImageError, SamdiffError, StoreError
from samdiff.pipeline.images.decode import Limits
from samdiff.pipeline.prepare.mask_stage import one_each
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.prepare.scan import read_usable, scan
from samdiff.pipeline.workers import local_workers
from samdiff.pipeline.workers.dask_cluster import DaskWorkers

from ..prepare.test_prepare import write
from .test_cluster import stored

HERE = Path(__file__).parents[2] / "helpers"
sys.path.append(str(HERE))  # workers get this path, and import the segmenters by their name
import crew_masks  # noqa: E402

COUNT = 40
SETTINGS = PrepareConfig(scale=4, tile=64)
READ = partial(read_usable, scale=4, tile=64, limits=Limits())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images, 2 of them too small."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        image = np.random.default_rng(number).integers(0, 255, (68, 72 + 4 * (number % 3), 3), dtype=np.uint8)
        image[0, 0] = number
        write(folder / f"{number:02d}.png", image[:20] if number in (7, 23) else image)
    return folder


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store that one process makes of them."""
    out = tmp_path_factory.mktemp("alone") / "s.zarr"
    assert len(prepare(images, out, crew_masks.Box(), SETTINGS).skipped) == 2
    return stored(out)


def crew(make: partial | type = crew_masks.Box, **options: object) -> DaskWorkers:
    return DaskWorkers(make, make().describe(), **options)


@pytest.mark.parametrize(("workers", "group"), [(1, 8), (2, 1), (2, 3), (3, 1), (3, 5)])
def test_forty_images_and_some_workers(images, alone, tmp_path, workers, group):
    """The bytes of one process, each image once, whatever the number of images per task."""
    with crew(workers=workers, group=group) as some:
        report = prepare(images, tmp_path / "s.zarr", crew_masks.Box(), SETTINGS, mask_stage=some)
    assert (report.images, report.segmented) == (COUNT, COUNT - 2)
    assert stored(tmp_path / "s.zarr") == alone


def test_forty_images_on_a_cluster(images, alone, tmp_path):
    """A scheduler's address; a worker joins when the work has begun, and is used."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp") as cluster,
        crew(address=cluster.scheduler_address) as some,
    ):
        windows = []

        def mask_stage(items, read):
            for number, result in enumerate(some.records(items, read)):
                if number == 0:
                    cluster.scale(2)
                time.sleep(0.1)
                windows.append(some._window())
                yield result

        prepare(images, tmp_path / "s.zarr", crew_masks.Box(), SETTINGS, mask_stage=mask_stage)
    assert (windows[0], windows[-1]) == (3, 6)
    assert stored(tmp_path / "s.zarr") == alone


def test_groups_come_from_the_plan(images, monkeypatch):
    """Tasks hold consecutive images of the list, in order, whoever is free."""
    items, tasks = scan(images)[:11], []
    with crew(workers=2, group=4) as some:
        submit = some.client.submit

        def spy(*given, **named):
            tasks.append([item.image_file.name for item in named["items"]])
            return submit(*given, **named)

        monkeypatch.setattr(some.client, "submit", spy)
        done = list(some.records(items, READ))
    names = [item.image_file.name for item in items]
    assert tasks == [names[:4], names[4:8], names[8:]]
    assert sorted(item.image_file.name for item, _ in done) == names
    reasons = [item.image_file.name for item, result in done if isinstance(result, ImageError)]
    assert reasons == ["07.png"]  # the reason is that of the right image


def test_a_result_that_takes_longer_than_a_tick():
    """On a busy machine: waited for longer and longer, since each attempt fetches it anew."""

    class Slow:
        status, waits = "finished", []

        def result(self, timeout):
            self.waits.append(timeout)
            assert len(self.waits) < 20
            if timeout < 5:
                raise TimeoutError
            return ["masks"]

        def release(self):
            self.status = "released"

    some, future = DaskWorkers.__new__(DaskWorkers), Slow()
    some.local = SimpleNamespace(replace_dead=lambda: None)
    assert some._outcome(future) == ["masks"]
    assert (future.waits, future.status) == ([0.5, 1, 2, 4, 8], "released")


@pytest.mark.parametrize("group", [1, 4])
def test_workers_are_killed_while_they_start_and_at_work(images, alone, tmp_path, group):
    """kill -9 at once, while they load, and while they hold images."""
    with crew(partial(crew_masks.Box, 0.05), workers=2, group=group) as some:
        first = some.local.pids
        for pid in first:
            os.kill(pid, signal.SIGKILL)

        def mask_stage(items, read):
            for number, result in enumerate(some.records(items, read)):
                if number in (4, 9, 20):
                    os.kill(some.local.pids[number % 2], signal.SIGKILL)
                yield result

        report = prepare(images, tmp_path / "s.zarr", crew_masks.Box(), SETTINGS, mask_stage=mask_stage)
        assert not set(first) & set(some.local.pids)
    assert report.segmented == COUNT - 2
    assert stored(tmp_path / "s.zarr") == alone


def test_results_that_die_with_their_worker(images):
    """Finished, but not fetched yet: they are made again."""
    with crew(workers=1) as some:
        results = some.records(scan(images)[:4], READ)
        names = [next(results)[0].image_file.name]
        time.sleep(1)
        os.kill(some.local.pids[0], signal.SIGKILL)
        names += [item.image_file.name for item, _ in results]
    assert sorted(names) == ["00.png", "01.png", "02.png", "03.png"]


@pytest.mark.parametrize("group", [1, 4])
def test_an_image_that_kills_its_workers(images, group):
    """All others come out first, those of its task too; then one error that names it."""
    names = []
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        crew(partial(crew_masks.Box, deadly=2), workers=1, group=group) as some,
    ):
        results = some.records(scan(images)[:6], READ)
        names += [next(results)[0].image_file.name for _ in range(5)]
        with pytest.raises(StoreError, match=r"02\.png: each worker that segmented it died .* the same command resumes"):
            next(results)
    assert sorted(names) == ["00.png", "01.png", "03.png", "04.png", "05.png"]


def test_workers_that_cannot_start(images, monkeypatch):
    """An error with their own last words, not a wait for ever."""
    monkeypatch.setattr(local_workers, "_CODE", "raise ImportError('no such\\x1b library')")
    with (
        crew(workers=2) as some,
        pytest.raises(StoreError, match=r"ended with status 1: ImportError: no such\\x1b library. Leave out --workers"),
    ):
        list(some.records(scan(images), READ))


def test_one_result_for_each_item(images):
    """Asserted for whatever makes them."""
    items = scan(images)[:4]
    results = [(item, SamdiffError("x")) for item in items]
    assert list(one_each(items, iter(results))) == results
    for wrong in (results[:3], [*results, results[0]]):
        with pytest.raises(AssertionError, match="result"):
            list(one_each(items, iter(wrong)))


def listening(processes: list[psutil.Process]) -> list[tuple[str, int]]:
    """Addresses where they wait for connections."""
    found = [connection for one in processes for connection in one.net_connections("inet")]
    return [tuple(connection.laddr) for connection in found if connection.status == psutil.CONN_LISTEN]


def test_nobody_without_the_keys_is_let_in(images):
    """On loopback only; plain text, no certificate and another run's certificate are refused, by scheduler and workers; HTTP serves nothing."""
    before = listening([psutil.Process()])
    with crew(workers=1) as some:
        list(some.records(scan(images)[:2], READ))
        places = listening([psutil.Process(), *map(psutil.Process, some.local.pids)])
        places = [place for place in places if place not in before]
        assert {host for host, _ in places} == {"127.0.0.1"}
        scheduler = some.client.scheduler.address
        assert scheduler.startswith("tls://127.0.0.1:")
        workers = list(some.client.nthreads())
        assert len(workers) == 1
        for address in (scheduler, *workers):
            assert address.startswith("tls://127.0.0.1:")
            for stranger in (Security(), Security.temporary()):
                plain = address if stranger.require_encryption else address.replace("tls", "tcp")
                with pytest.raises((OSError, TimeoutError)):
                    Client(plain, security=stranger, timeout=1)
        for _, port in places:
            assert answer(port, b"GET /info/main/workers.html HTTP/1.0\r\n\r\n").split(b"\r\n")[0] in (
                b"",
                b"HTTP/1.1 404 Not Found",
            )
        assert len(list(some.records(scan(images)[2:5], READ))) == 3  # and it goes on


def answer(port: int, request: bytes) -> bytes:
    """What a port says to a stranger's bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        try:
            return connection.recv(4096)
        except ConnectionResetError:
            return b""


def test_certificates_and_addresses_that_do_not_go_together():
    """tls:// without certificates is an error that says where they belong."""
    with pytest.raises(ConfigError, match=r"--dask tls://127.0.0.1:9: .*docs/cluster.md"):
        DaskWorkers(crew_masks.Box, {"name": "box"}, address="tls://127.0.0.1:9")


def test_a_cluster_with_certificates(images, tmp_path):
    """Dask's own configuration names them; without them nobody is let in."""
    keys = Security.temporary()
    files = {"ca-file": keys.tls_ca_file, "client.cert": keys.tls_client_cert, "client.key": keys.tls_client_key}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tls", security=keys
    ) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(ConfigError, match=r"--dask tls://.*certificates"):
            crew(address=address)
        with (
            dask.config.set({f"distributed.comm.tls.{name}": str(tmp_path / name) for name in files}),
            crew(address=address) as some,
        ):
            assert len(list(some.records(scan(images)[:3], READ))) == 3


SIGNALS = {"hang up": signal.SIGHUP, "terminate": signal.SIGTERM, "Ctrl-C": signal.SIGINT, "kill": signal.SIGKILL}


@pytest.mark.parametrize(("name", "at_work"), [("hang up", False), *((name, True) for name in SIGNALS)])
def test_a_signal_ends_the_run_without_a_traceback(images, tmp_path, name, at_work):
    """Sent to the whole group, while the workers start or at work: no traceback, no worker stays behind."""
    code = (
        f"import sys; sys.path.append({str(HERE)!r})\n"
        "import crew_masks, samdiff.pipeline.prepare.mask_stage as segment\n"
        "from samdiff.cli import main\n"
        "segment.make_generator = lambda *_, **__: crew_masks.Box(0.5)\n"
        "main(sys.argv[1:])"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "prepare",
        str(images),
        "--out",
        str(tmp_path / "s.zarr"),
        "--tile",
        "64",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        workers: list[psutil.Process] = []
        begun, deadline = False, time.monotonic() + 120
        while not workers or at_work > begun:
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
            workers = workers or psutil.Process(process.pid).children(recursive=True)
            begun = any((tmp_path / "s.zarr.staging").glob("images/*.npz"))
        os.killpg(process.pid, SIGNALS[name])
        errors = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in errors
    assert "Warning" not in errors
    assert process.returncode in (-SIGNALS[name], 130)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
