"""Masks without pixels: what other programs open, and a round trip to a store with the same codes and labels."""

import json
from pathlib import Path

import numpy as np
import pytest

from samdiff import open_store
from samdiff.errors import ConfigError
from samdiff.pipeline.encode.rle import decode
from samdiff.pipeline.export.mask_export import export_labels, export_masks
from samdiff.pipeline.mask_files.imported import ImportedMasks
from samdiff.pipeline.prepare.run import PrepareConfig, prepare
from samdiff.pipeline.shards.verify import verify_store

from ..prepare.test_prepare import PositionMasks, position_image, position_masks, write
from ..prepare.test_reuse import Counting, folder_of

CONFIG = PrepareConfig(scale=4, tile=64)
TABLES = (
    *("masks/codes", "masks/area", "masks/box_hr", "masks/predicted_iou", "masks/stability", "masks/point_hr"),
    *("masks/crop_box_hr", "masks/rle", "masks/rle_offset", "images/n_masks", "tiles/place"),
)


def plain_decode(text: str, height: int, width: int) -> np.ndarray:
    """COCO's compressed RLE by its description in maskApi.c, one number at a time."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 31) << shift
            more, at, shift = bool(bits & 32), at + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(width, height).T


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Names that need care: a folder, two that differ in the suffix, and one that is no image."""
    write(tmp_path / "photos" / "a.png", position_image(163, 190, 10))
    write(tmp_path / "photos" / "a.bmp", position_image(100, 130, 20))
    write(tmp_path / "photos" / "deep" / "a.png", position_image(163, 190, 30))
    write(tmp_path / "photos" / "deep" / "ü b.png", position_image(64, 64, 40))
    (tmp_path / "photos" / "d.png").write_text("not an image")
    return tmp_path / "photos"


def test_the_coco_file_is_what_pycocotools_opens(photos: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "a.zarr", PositionMasks(), CONFIG)
    export_masks(open_store(tmp_path / "a.zarr"), tmp_path / "masks")
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO(tmp_path / "masks" / "coco.json")
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in coco.loadImgs(coco.getImgIds())}
    assert sizes == {"a.bmp": (100, 128), "a.png": (160, 188), "deep/a.png": (160, 188), "deep/ü b.png": (64, 64)}
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        expected = position_masks(image["height"], image["width"])
        np.testing.assert_array_equal(np.stack([coco.annToMask(each) for each in annotations]), expected)
        assert [each["area"] for each in annotations] == expected.sum(axis=(1, 2)).tolist()
        assert annotations[2]["bbox"] == [0, 0, 30, 20]
        assert annotations[0]["predicted_iou"] == pytest.approx(0.9)


def test_the_files_are_right_without_pycocotools(photos: Path, tmp_path: Path) -> None:
    """The COCO file and the files of single images, by a decoder of our own. No pixel is in them."""
    prepare(photos, tmp_path / "a.zarr", PositionMasks(), CONFIG)
    export_masks(open_store(tmp_path / "a.zarr"), tmp_path / "masks")
    assert sorted(path.name for path in (tmp_path / "masks" / "images").iterdir()) == [
        *("a-2.json", "a.json", "deep_a.json", "deep_ü_b.json")
    ]
    coco = json.loads((tmp_path / "masks" / "coco.json").read_text("ascii"))
    assert [each["id"] for each in coco["annotations"]] == list(range(1, 21))
    assert coco["info"]["segmenter"] == {"name": "position"}
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    single = {}
    for path in (tmp_path / "masks" / "images").iterdir():
        document = json.loads(path.read_text("ascii"))
        single[document["image"]["file_name"]] = document["annotations"]
    for each in coco["annotations"]:
        height, width = each["segmentation"]["size"]
        mask = plain_decode(each["segmentation"]["counts"], height, width)
        number = (each["id"] - 1) % 5
        np.testing.assert_array_equal(mask, position_masks(height, width)[number])
        assert single[names[each["image_id"]]][number]["segmentation"] == each["segmentation"]


@pytest.mark.parametrize("path", ["masks", "masks/images", "masks/coco.json"])
def test_export_and_import_give_the_same_store(path: str, photos: Path, tmp_path: Path) -> None:
    """Codes, labels, and all other values; also where two images differ in folder or suffix only."""
    prepare(photos, tmp_path / "a.zarr", PositionMasks(), CONFIG)
    before = open_store(tmp_path / "a.zarr")
    export_masks(before, tmp_path / "masks")
    if path == "masks":  # which of them was edited is not known
        with pytest.raises(ConfigError, match=r"holds coco\.json, a COCO file of several images"):
            ImportedMasks(tmp_path / path, 4)
        return
    report = prepare(photos, tmp_path / "b.zarr", ImportedMasks(tmp_path / path, 4), CONFIG)
    after = open_store(tmp_path / "b.zarr")
    assert list(report.skipped) == ["d.png"]
    for table in TABLES:
        np.testing.assert_array_equal(before.table(table), after.table(table), err_msg=table)
    np.testing.assert_array_equal(
        before.read_tiles("labels", range(len(before))), after.read_tiles("labels", range(len(after)))
    )
    assert verify_store(tmp_path / "b.zarr", deep=True) == []


def test_values_that_json_does_not_have_are_left_out(tmp_path: Path) -> None:
    """Masks without scores and points, and an image without masks."""
    source = folder_of(tmp_path / "photos", range(2))
    write(source / "white.png", np.full((48, 72, 3), 255, np.uint8))
    (tmp_path / "json").mkdir()
    rle = {"size": [48, 72], "counts": [5, 100, 48 * 72 - 105]}
    for name, records in (("0", [{"segmentation": rle}]), ("1", [{"segmentation": rle}] * 2), ("white", [])):
        (tmp_path / "json" / f"{name}.json").write_text(json.dumps(records))
    config = PrepareConfig(scale=2, tile=32)
    prepare(source, tmp_path / "a.zarr", ImportedMasks(tmp_path / "json", 2), config)
    before = open_store(tmp_path / "a.zarr")
    export_masks(before, tmp_path / "masks")
    assert "NaN" not in (tmp_path / "masks" / "coco.json").read_text()
    prepare(source, tmp_path / "b.zarr", ImportedMasks(tmp_path / "masks" / "coco.json", 2), config)
    after = open_store(tmp_path / "b.zarr")
    for table in TABLES:
        np.testing.assert_array_equal(before.table(table), after.table(table), err_msg=table)
    assert after.note(2) == "no masks"


def test_label_maps_are_those_of_the_tiles(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "photos", range(2))
    prepare(source, tmp_path / "a.zarr", Counting(), PrepareConfig(scale=2, tile=32))
    store = open_store(tmp_path / "a.zarr")
    export_labels(store, tmp_path / "labels")
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["0.npz", "1.npz"]
    with np.load(tmp_path / "labels" / "1.npz", allow_pickle=False) as arrays:
        assert str(arrays["name"]) == "1.png"
        labels, codes = arrays["labels"], arrays["codes"]
    assert (labels.dtype, labels.shape) == (np.uint16, (48, 72))
    np.testing.assert_array_equal(codes, store.table("masks/codes")[3:])
    masks = [decode(runs, 48, 72) for runs in store.masks(1)]
    np.testing.assert_array_equal(labels, np.max([mask * (k + 1) for k, mask in enumerate(masks)], axis=0))
    for row, (image, y, x) in enumerate(store.table("tiles/place").tolist()):
        if image == 1:
            np.testing.assert_array_equal(store[row]["labels"], labels[y : y + 32, x : x + 32])


@pytest.mark.parametrize("export", [export_masks, export_labels])
def test_they_never_write_over_a_folder(export, tmp_path: Path) -> None:
    prepare(folder_of(tmp_path / "photos", range(1)), tmp_path / "a.zarr", Counting(), PrepareConfig(scale=2, tile=32))
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(ConfigError, match="exists already"):
        export(store, tmp_path / "photos")
    with pytest.raises(ConfigError, match="lies in the store"):
        export(store, tmp_path / "a.zarr" / "masks")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "photos"]
