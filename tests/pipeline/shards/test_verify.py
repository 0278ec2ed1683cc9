"""`samdiff verify`: damage, absence, intrusion and contradiction, all found and named in one pass."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from samdiff.errors import StoreError
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.shards.schema import ARRAYS
from samdiff.pipeline.shards.verify import verify_store
from samdiff.pipeline.shards.writer import StoreWriter, digest, sign_root
from samdiff.pipeline.storage.local import LocalStore

from ..prepare.test_prepare import PositionMasks, position_image, write


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write(folder / "photos" / "a.png", position_image(160, 188, 10))
    write(folder / "photos" / "b.png", position_image(100, 128, 20))
    prepare(folder / "photos", folder / "x.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64))
    return folder / "x.zarr"


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "x.zarr"))


def test_a_sound_store_has_no_problems(sound):
    """Neither quick nor deep."""
    assert verify_store(sound) == []
    assert verify_store(sound, deep=True) == []


def test_one_flipped_bit_in_each_file_is_found_and_named(sound, copy):
    """Every file of the store, one random bit each, one at a time: exactly that file is named."""
    random = np.random.default_rng(0)
    for key in LocalStore(sound).list_keys():
        clean = (sound / key).read_bytes()
        data = bytearray(clean)
        bit = int(random.integers(len(data) * 8))
        data[bit // 8] ^= 1 << (bit % 8)
        (copy / key).write_bytes(data)
        problems = verify_store(copy)
        assert any(problem.startswith(f"{key}:") for problem in problems), (key, bit, problems)
        others = [p for p in problems if not p.startswith((f"{key}:", "contents:", "record:"))]
        assert others == [], (key, bit)
        (copy / key).write_bytes(clean)


def test_everything_at_once(copy):
    """Missing, truncated, too long, foreign, edited: five files, five sentences."""
    (copy / "masks/area/c/0").unlink()
    for key, change in {
        "tiles/hr/c/0/0/0/0": lambda data: data[:-100],
        "tiles/lr/c/0/0/0/0": lambda data: data + b"\0",
        "images/height/zarr.json": lambda data: data.replace(b"int32", b"int16"),
    }.items():
        (copy / key).write_bytes(change((copy / key).read_bytes()))
    (copy / "tiles/notes.txt").write_text("hello")
    problems = verify_store(copy)
    for start in (
        "masks/area/c/0: missing",
        "tiles/hr/c/0/0/0/0: truncated",
        "tiles/lr/c/0/0/0/0: too long",
        "images/height/zarr.json: edited or damaged metadata",
        "tiles/notes.txt: foreign",
    ):
        assert sum(problem.startswith(start) for problem in problems) == 1, (start, problems)


def test_a_damaged_shard_says_which_tiles_are_lost(copy):
    """A bit in the middle of one tile of the shard."""
    shard = copy / "tiles/hr/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    (problem,) = verify_store(copy)
    assert re.match(r"tiles/hr/c/0/0/0/0: damaged: .*; tile 0 lost$", problem)


def rewrite(source: Path, target: Path, change) -> Path:
    """The same store with other rows, every digest right."""
    store = open_store(source)
    rows = {path: table.copy() for path, table in read_all(source).items()}
    change(rows)
    writer = StoreWriter(LocalStore(target), store.sizes)
    writer.append(rows)
    writer.commit({key: value for key, value in store.attrs.items() if key not in ("digests", "format", "format_version")})
    return target


@pytest.mark.parametrize(
    ("path", "row", "value", "deep", "says"),
    [
        (
            "tiles/labels",
            (3, 5, 6),
            9,
            False,
            "tiles/labels/c/0/0/0: labels without a mask: tile 3 has label 9, image a.png",
        ),
        ("images/n_masks", 0, 4, False, "images/n_masks: the images have 9 masks, the store 10"),
        ("masks/rle_offset", 2, 9999, False, "masks/rle_offset: expected offsets that increase"),
        ("tiles/place", (1, 1), 3, False, r"tiles/place: row 1: \[0, 3, 64\] is not a position"),
        ("masks/codes", (1, 0), np.nan, False, "masks/codes: row 1: expected finite numbers"),
        ("masks/codes", (1, 0), 0.25, True, r"masks/codes: a.png: mask 2 has \[0.25"),
        ("masks/area", 7, 5, True, "masks/area: b.png: mask 3 has 5, but its runs give"),
        ("tiles/labels", (3, 5, 6), 5, True, "tiles/labels: tile 3 .image a.png at y 64, x 0. differs from the painted masks"),
    ],
)
def test_contents_that_contradict_each_other(sound, tmp_path, path, row, value, deep, says):
    """Every digest is right, what they cover is not."""

    def change(rows):
        rows[path][row] = value

    store = rewrite(sound, tmp_path / "x.zarr", change)
    assert (verify_store(store) == []) == deep
    assert re.match(says, verify_store(store, deep=True)[0])


def test_an_edited_root_with_its_own_digest_put_right(copy):
    """Counts that are not the tables'."""
    document = json.loads((copy / "zarr.json").read_bytes())["attributes"]
    record = document.pop("digests")["record"]
    document["counts"]["masks"] = 11
    (copy / "zarr.json").write_bytes(sign_root(document, record))
    (problem,) = verify_store(copy)
    assert problem.startswith("zarr.json: counts")


def test_no_store_at_all(tmp_path):
    """Nothing there, and a folder of something else."""
    with pytest.raises(StoreError, match="there is no such store"):
        verify_store(tmp_path / "no.zarr")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(StoreError, match=r"without zarr\.json"):
        verify_store(tmp_path)


def read_all(path: Path) -> dict[str, np.ndarray]:
    store = open_store(path)
    return {spec.path: store.table(spec.path) for spec in ARRAYS}


def test_damage_while_reading_names_the_file(sound, copy):
    """A flipped bit in any shard or table is an error on reading, never a sample (the metadata: on opening)."""
    random = np.random.default_rng(1)
    whole = open_store(sound)
    for key, (size, _) in whole.manifest.items():
        data = bytearray((sound / key).read_bytes())
        data[int(random.integers(size))] ^= 1 << int(random.integers(8))
        (copy / key).write_bytes(data)
        if key.count("/") > 1:  # images/zarr.json and the like hold nothing that is read
            with pytest.raises(StoreError, match=key):
                read_all(copy)
        (copy / key).write_bytes((sound / key).read_bytes())
    assert digest((copy / "zarr.json").read_bytes()) == digest((sound / "zarr.json").read_bytes())
