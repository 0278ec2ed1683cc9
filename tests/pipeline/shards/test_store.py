"""The store: plain Zarr that zarr-python and our reader read alike; damage is an error that names the file."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from samdiff.errors import StoreError
from samdiff.pipeline.shards.metadata import violations
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.shards.schema import ARRAYS, array_table, shape_of, tiles_per_shard
from samdiff.pipeline.shards.writer import StoreWriter
from samdiff.pipeline.storage.local import LocalStore

T, SCALE, N, M = 40, 4, 5000, 3  # two shards of 2048 whole, one partial
SIZES = {"I": 2, "N": N, "M": M, "R": 9, "B": 6, "B2": 0, "T": T, "t": T // SCALE}


def _rows(rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows = {}
    for spec in ARRAYS:
        shape, dtype = shape_of(spec, SIZES), np.dtype(spec.dtype)
        values = rng.random(shape) if dtype.kind == "f" else rng.integers(0, 100, shape)
        rows[spec.path] = values.astype(dtype)
    rows["tiles/labels"][7] = 0  # a tile equal to the fill value is written all the same
    rows["images/name_offset"] = np.array([0, 2, 6], np.uint64)
    rows["images/name"] = np.frombuffer("a.pémg"[:5].encode(), np.uint8)
    rows["images/note_offset"] = np.zeros(3, np.uint64)
    rows["images/status"][:], rows["images/height"][:], rows["images/width"][:] = 0, 2 * T, T
    rows["images/first_mask"], rows["images/n_masks"] = np.array([0, 3]), np.array([3, 0], np.int32)
    rows["images/first_tile"], rows["images/n_tiles"] = np.array([0, N - 7]), np.array([N - 7, 7], np.int32)
    rows["tiles/place"] = np.stack([np.arange(N) >= N - 7, np.arange(N) % 11 * SCALE, np.zeros(N)], axis=1).astype(np.int32)
    rows["tiles/labels"] = np.where(rows["tiles/place"][:, 0, None, None] == 0, rows["tiles/labels"] % (M + 1), 0).astype(
        np.uint16
    )
    rows["masks/rle_offset"] = np.array([0, 4, 6, 9], np.uint64)
    rows["masks/rle"] = np.array([T * T, 2, 3, T * T - 5, 0, 2 * T * T, T, T, 2 * T * (T - 1)], np.uint32)
    return rows


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("store") / "x.zarr"
    return path, _write(path)


def _write(path: Path, step: int = 777) -> dict[str, np.ndarray]:
    rows = _rows(np.random.default_rng(0))
    writer = StoreWriter(LocalStore(path), SIZES)
    for start in range(0, N, step):
        writer.append({p: rows[p][start : start + step] for p in rows if p.startswith("tiles/")})
    writer.append({p: values for p, values in rows.items() if not p.startswith("tiles/")})
    writer.commit({"scale": SCALE, "fingerprint": "f"})
    return rows


def test_reader_gives_back_what_was_written(written):
    """Every table whole, tiles in any order, ragged masks and names."""
    path, rows = written
    store = open_store(path)
    for spec in ARRAYS:
        if spec.rows != 1:
            np.testing.assert_array_equal(store.table(spec.path), rows[spec.path])
    pick = [N - 1, 0, 7, 2047, 2048, 7]
    for name in ("hr", "lr", "labels"):
        np.testing.assert_array_equal(store.read_tiles(name, pick), rows[f"tiles/{name}"][pick])
    assert store.names() == ["a.", "pém"]
    assert [len(runs) for runs in store.masks(0)] == [4, 2, 3]
    assert store.masks(1) == []


def test_zarr_python_reads_it_without_a_warning(written):
    """Plain Zarr v3: values, dimension names, codecs; nothing foreign in the group."""
    path, rows = written
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open_group(path, mode="r")
        members = dict(group.members(max_depth=None))
    for spec in ARRAYS:
        array = members[spec.path]
        assert array.metadata.dimension_names == spec.dims
        np.testing.assert_array_equal(array[:], rows[spec.path], err_msg=spec.path)
    assert array.metadata.zarr_format == 3


def test_same_rows_in_other_portions_give_the_same_bytes(written, tmp_path):
    """The bytes depend on the rows, not on how they arrived."""
    path, _ = written
    _write(tmp_path / "y.zarr", step=4999)
    ours, theirs = LocalStore(path), LocalStore(tmp_path / "y.zarr")
    assert list(ours.list_keys()) == list(theirs.list_keys())
    assert all(ours.get(key) == theirs.get(key) for key in ours.list_keys())


def test_every_file_is_in_the_record_with_its_size(written):
    """The record names all files but the root document and itself."""
    path, _ = written
    store = open_store(path)
    keys = set(LocalStore(path).list_keys())
    assert keys - set(store.manifest) == {"zarr.json", "record/zarr.json", "record/c/0"}
    assert all(LocalStore(path).size(key) == size for key, (size, _) in store.manifest.items())


def test_one_flipped_bit_in_a_shard_is_found(written, tmp_path):
    """Of 60 flipped bits all over one shard, none comes back as a pixel (law 4)."""
    path, rows = written
    copy = tmp_path / "x.zarr"
    shutil.copytree(path, copy)
    shard = copy / "tiles/hr/c/2/0/0/0"
    clean, slots = shard.read_bytes(), tiles_per_shard(T)
    mine = range(2 * slots, N)
    for bit in np.random.default_rng(1).integers(0, len(clean) * 8, 60):
        data = bytearray(clean)
        data[bit // 8] ^= 1 << (bit % 8)
        shard.write_bytes(data)
        with pytest.raises(StoreError, match="tiles/hr/c/2"):
            open_store(copy).read_tiles("hr", mine)
    shard.write_bytes(clean)
    np.testing.assert_array_equal(open_store(copy).read_tiles("hr", mine), rows["tiles/hr"][mine])


@pytest.mark.parametrize(
    "key", ["tiles/hr/c/1/0/0/0", "masks/codes/c/0/0", "images/height/c/0", "tiles/lr/zarr.json", "record/c/0"]
)
def test_a_missing_or_short_file_is_an_error_that_names_it(written, tmp_path, key):
    """Never zeros (Zarr's own reader fills them in)."""
    path, _ = written
    copy = tmp_path / "x.zarr"
    shutil.copytree(path, copy)
    data = (copy / key).read_bytes()

    def read_all():
        store = open_store(copy)
        store.read_tiles("hr", [3000])
        store.table("masks/codes"), store.table("images/height")

    for damaged in (None, data[: len(data) // 2]):
        (copy / key).unlink() if damaged is None else (copy / key).write_bytes(damaged)
        with pytest.raises(StoreError, match=key):
            read_all()


def test_the_root_document_is_sealed(written, tmp_path):
    """Any changed byte of the root is found; another format version and a foreign group are named as such."""
    path, _ = written
    copy = tmp_path / "x.zarr"
    shutil.copytree(path, copy)
    clean = (path / "zarr.json").read_bytes()
    for bit in np.random.default_rng(2).integers(0, len(clean) * 8, 100):
        data = bytearray(clean)
        data[bit // 8] ^= 1 << (bit % 8)
        (copy / "zarr.json").write_bytes(data)
        with pytest.raises(StoreError):
            open_store(copy)
    document = json.loads(clean)
    document["attributes"]["format_version"] = 3
    (copy / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="expected format version 1 or 2, got 3"):
        open_store(copy)
    (copy / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(StoreError, match="that samdiff did not write"):
        open_store(copy)


def test_no_store_before_the_commit(tmp_path):
    """What the root does not name never happened."""
    StoreWriter(LocalStore(tmp_path / "x.zarr"), SIZES)
    with pytest.raises(StoreError, match="without zarr.json"):
        open_store(tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="there is no such store"):
        open_store(tmp_path / "nothing.zarr")


def test_the_contract_is_checked_on_opening(written, tmp_path):
    """An array of another type or shape is refused with what was expected; edited metadata whatever it says."""
    path, _ = written
    copy = tmp_path / "x.zarr"
    shutil.copytree(path, copy)
    documents = {spec.path: json.loads((copy / spec.path / "zarr.json").read_text()) for spec in ARRAYS}
    assert violations(documents, SCALE) == []
    documents["tiles/labels"]["data_type"] = "uint8"
    assert violations(documents, SCALE) == ["tiles/labels: data type: expected uint16, got uint8"]
    (copy / "tiles/labels/zarr.json").write_text(json.dumps(documents["tiles/labels"]))
    with pytest.raises(StoreError, match=r"tiles/labels/zarr\.json: edited or damaged metadata"):
        open_store(copy)


def test_the_documented_table_is_the_contract():
    """docs/store.md shows every array as the contract has it."""
    assert array_table() in (Path(__file__).parents[3] / "docs" / "store.md").read_text(encoding="utf-8")
