"""Stores at URLs: a real S3 API on loopback, and fsspec's memory."""

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from samdiff import ShardDataset, ShardLoader
from samdiff.errors import StoreError
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.shards.verify import verify_store
from samdiff.pipeline.storage.local import LocalStore, key_store_at
from samdiff.pipeline.storage.remote import FsspecStore

from ...helpers.stores import make_store
from ..prepare.test_prepare import PositionMasks, position_image, write

SETTINGS = PrepareConfig(scale=4, tile=64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write(folder / "a.png", position_image(128, 128, 10))
    write(folder / "b.png", position_image(80, 96, 20))
    return folder


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 service of moto's on loopback, found through the environment as any other would be."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket/deep"
    server.stop()


@pytest.fixture(params=["s3", "memory"])
def base(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("bucket") if request.param == "s3" else "memory://deep"


def test_the_same_store_at_a_url(base, photos, tmp_path, monkeypatch):
    """Begun, interrupted, gone on with, committed, verified, read: byte for byte that of a folder. Nothing is left beside it."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    url = f"{base}/x.zarr"
    prepare(photos, tmp_path / "x.zarr", PositionMasks(), SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        prepare(photos, url, PositionMasks(fail_after=1), SETTINGS)
    with pytest.raises(StoreError, match=r"not finished \(.*x\.zarr\.staging exists"):
        open_store(url)
    again = PositionMasks()
    prepare(photos, url, again, SETTINGS)
    assert len(again.seen) == 1
    local, remote = LocalStore(tmp_path / "x.zarr"), pickle.loads(pickle.dumps(key_store_at(url)))
    assert sorted(remote.list_keys()) == sorted(local.list_keys())
    assert all(remote.get(key) == local.get(key) for key in local.list_keys())
    assert list(key_store_at(f"{url}.staging").list_keys()) == []
    assert verify_store(url, deep=True) == []
    ours, theirs = (
        ShardDataset(url, patch=32, seed=3).batch(0, 9),
        ShardDataset(tmp_path / "x.zarr", patch=32, seed=3).batch(0, 9),
    )
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    third = PositionMasks()
    assert prepare(photos, url, third, SETTINGS).already_complete
    with pytest.raises(StoreError, match="scale: was 4, now 2"):
        prepare(photos, url, third, PrepareConfig(scale=2, tile=64))


def test_damage_at_a_url_names_the_object(base, photos, tmp_path, monkeypatch):
    """A missing shard and a foreign object."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    url = f"{base}/y.zarr"
    prepare(photos, url, PositionMasks(), SETTINGS)
    place = key_store_at(url)
    place.delete("tiles/lr/c/0/0/0/0")
    place.set("tiles/junk", b"1")
    with pytest.raises(StoreError, match=r"y\.zarr/tiles/lr/c/0/0/0/0: the file is missing"):
        open_store(url).read_tiles("lr", [0])
    assert [p.split(";")[0].split(": the")[0] for p in verify_store(url)] == [
        "tiles/junk: foreign",
        "tiles/lr/c/0/0/0/0: missing",
    ]


def test_addresses_that_lead_nowhere(bucket, photos, monkeypatch, tmp_path):
    """No such store, no such bucket, no such service, no such kind of address: each says so and names it."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(StoreError, match=r"s3://bucket/deep/no\.zarr: there is no such store"):
        open_store("s3://bucket/deep/no.zarr")
    with pytest.raises(StoreError, match=r"s3://nobucket/x\.zarr.*check the address"):
        prepare(photos, "s3://nobucket/x.zarr", PositionMasks(), SETTINGS)
    with pytest.raises(StoreError, match=r"nonsense://x\.zarr.*[Pp]rotocol not known"):
        open_store("nonsense://x.zarr")


def test_zarr_opens_it_at_its_url(bucket, photos, tmp_path, monkeypatch):
    """Plain zarr-python, without a warning of its own."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    prepare(photos, f"{bucket}/z.zarr", PositionMasks(), SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = zarr.open_group(f"{bucket}/z.zarr", mode="r")["tiles/hr"]
        np.testing.assert_array_equal(array[:], open_store(f"{bucket}/z.zarr").table("tiles/hr"))


def test_training_streams_from_a_url_through_a_bounded_cache(base, tmp_path, monkeypatch):
    """The same batches as from the folder; the shards are kept on the local disk."""
    monkeypatch.setenv("SAMDIFF_CACHE", str(tmp_path / "cache"))
    local = make_store(tmp_path / "a.zarr", n=5000)
    far, here = FsspecStore(f"{base}/stream.zarr"), LocalStore(local)
    for key in here.list_keys():
        far.set(key, here.get(key))
    data, expected = ShardDataset(f"{base}/stream.zarr", patch=12, seed=1), ShardDataset(local, patch=12, seed=1)
    for index, batch in enumerate(ShardLoader(data, 16, steps=10, workers=2)):
        np.testing.assert_array_equal(batch["hr"].numpy(), expected.batch(index * 16, 16)["hr"])
    assert len(list((tmp_path / "cache/shards").rglob("hr/c/*/0/0/0"))) >= 1
