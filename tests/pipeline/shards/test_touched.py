"""Stores that other programs touched: what they add is left alone, what they change is noticed."""

import json
import shutil
from pathlib import Path

import pytest
import zarr

from samdiff.errors import StoreError
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.reader import open_store
from samdiff.pipeline.shards.verify import verify_store

from ..prepare.test_prepare import PositionMasks, position_image, write

pytestmark = pytest.mark.filterwarnings("ignore")  # zarr's remarks on consolidated metadata


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("touched")
    write(folder / "photos" / "a.png", position_image(100, 128, 10))
    prepare(folder / "photos", folder / "x.zarr", PositionMasks(), PrepareConfig(scale=4, tile=64))
    return folder / "x.zarr"


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "x.zarr"))


def consolidate(store: Path) -> None:
    zarr.consolidate_metadata(str(store))


def add_attributes(*places: str):
    def add(store: Path) -> None:
        for place in places:
            group = zarr.open_group(str(store), mode="r+")
            (group[place] if place else group).attrs["mine"] = {"note": "été", "value": 0.1}

    return add


def lay_out_anew(store: Path) -> None:
    for file in store.rglob("zarr.json"):
        file.write_text(json.dumps(dict(reversed(json.loads(file.read_text()).items())), indent=7))


def leave_files(store: Path) -> None:
    for name in (".DS_Store", "tiles/.DS_Store", "tiles/hr/._zarr.json", "@eaDir/zarr.json@SynoEAStream", "masks/Thumbs.db"):
        (store / name).parent.mkdir(exist_ok=True)
        (store / name).write_bytes(b"x")


TOUCHES = {
    "consolidated": [consolidate],
    "root": [add_attributes("")],
    "group": [add_attributes("tiles")],
    "arrays": [add_attributes("tiles/hr", "images/name", "masks/rle")],
    "both": [consolidate, add_attributes("", "tiles", "tiles/lr")],
    "both, other order": [add_attributes("", "tiles", "tiles/lr"), consolidate],
    "layout": [lay_out_anew],
    "files": [leave_files],
}


@pytest.mark.parametrize("name", TOUCHES)
def test_what_other_programs_add_is_left_alone(name, sound, copy):
    """The store opens, verifies, reads equal, is complete for `prepare`, and no byte of it changes."""
    for touch in TOUCHES[name]:
        touch(copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    store, original = open_store(copy), open_store(sound)
    assert (store.read_tiles("hr", [0]) == original.read_tiles("hr", [0])).all()
    assert store.attrs == original.attrs
    assert verify_store(copy, deep=True) == []
    assert prepare(sound.parent / "photos", copy, PositionMasks(), PrepareConfig(scale=4, tile=64)).already_complete
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def edit(path: str, *keys: str, value: object):
    def change(store: Path) -> None:
        file = store / path / "zarr.json"
        document = json.loads(file.read_text())
        inner = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        file.write_text(json.dumps(document))

    return change


@pytest.mark.parametrize(
    "change",
    [
        edit("", "attributes", "scale", value=2),
        edit("", "attributes", "fingerprint", value="0" * 64),
        edit("", "attributes", "counts", value={}),
        edit("", "must_understand", value=True),
        edit("tiles/hr", "fill_value", value=1),
        edit("tiles/hr", "shape", value=[10**9, 64, 64, 3]),
        edit("tiles", "zarr_format", value=2),
    ],
)
@pytest.mark.parametrize("first", [lambda _: None, consolidate, add_attributes("", "tiles", "tiles/hr")])
def test_what_they_change_is_noticed(change, first, copy):
    """A changed value is an error as before, with or without additions."""
    first(copy)
    change(copy)
    with pytest.raises(StoreError, match=r"zarr\.json"):
        open_store(copy)
    assert verify_store(copy)


def test_the_way_to_add_images_keeps_the_masks(sound, tmp_path):
    """The message names it, and does not advise to delete."""
    shutil.copytree(sound.parent / "photos", tmp_path / "photos")
    write(tmp_path / "photos" / "late.png", position_image(100, 128, 30))
    with pytest.raises(StoreError) as caught:
        prepare(tmp_path / "photos", sound, PositionMasks(), PrepareConfig(scale=4, tile=64))
    assert "images new in the source: 1, such as late.png" in str(caught.value)
    assert "--out NEW.zarr --reuse" in str(caught.value)
    assert "loses its masks" in str(caught.value)
