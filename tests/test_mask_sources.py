"""Masks from the LR image and from files: in the right frame, listed where they are missing."""

import json

import numpy as np
import pytest

from samdiff.errors import ConfigError
from samdiff.pipeline.degrade import degrade
from samdiff.pipeline.mask_sources import ImportedMasks, MasksFromLR
from samdiff.pipeline.mask_table import MaskTable
from samdiff.pipeline.rle import counts_of, decode, encode, to_coco


def records_of(mask: np.ndarray) -> list[dict]:
    """Records of one mask as the generator makes them, with invented scores."""
    segmentation = to_coco(encode(mask), *mask.shape)
    record = {"segmentation": segmentation, "predicted_iou": 0.9, "stability_score": 0.97, "point_coords": [[2.5, 1.5]]}
    return MaskTable.of_records([record], *mask.shape).records()


class Blob:
    """A segmenter that marks a fixed shape in whatever it is shown."""

    def __init__(self):
        self.seen = []

    def describe(self):
        return {"name": "blob", "masks_from": "hr"}

    def generate_batch(self, images):
        for image in images:
            self.seen.append(image)
            mask = np.zeros(image.shape[:2], bool)
            mask[1:3, 2:5] = True
            mask[1, 4] = False
            yield records_of(mask)


def test_masks_from_lr_are_scaled_to_hr():
    """The segmenter sees the bicubic LR image; every number of the record is in the HR frame."""
    blob, image = Blob(), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    source = MasksFromLR(blob, 4)
    ((record,),) = source.generate_batch([image])
    np.testing.assert_array_equal(blob.seen[0], degrade(image, "bicubic", 4))
    mask = decode(counts_of(record["segmentation"], 24, 32), 24, 32)
    expected = np.zeros((24, 32), bool)
    expected[4:12, 8:20] = True
    expected[4:8, 16:20] = False
    np.testing.assert_array_equal(mask, expected)
    (again,) = MaskTable.of_records([record], 24, 32).records()  # area, box: from the runs themselves
    assert record == again
    assert record["point_coords"] == [[10.0, 6.0]]
    assert record["crop_box"] == [0, 0, 32, 24]
    assert source.describe() == {"name": "blob", "masks_from": "lr"}


def test_records_with_other_values_are_told(tmp_path):
    """Each is the fault of one file, so one picture is skipped and the run goes on."""
    (good,) = records_of(np.ones((4, 4), bool))
    faults = (
        {"predicted_iou": "high"},
        {"stability_score": [1]},
        {"crop_box": [0, 0, 4]},
        {"crop_box": ["a", 0, 4, 4]},
        {"point_coords": [1, 2]},
        {"point_coords": [[1]]},
        {"segmentation": {"size": 4, "counts": [0, 16]}},
        {"segmentation": {"size": [4, 4], "counts": [[1, 2], [3]]}},
    )
    for fault in faults:
        (tmp_path / "a.json").write_text(json.dumps([{**good, **fault}]))
        assert "expected" in str(ImportedMasks(tmp_path, 1).expect("a.png", 4, 4)), fault
    for fine in ({"predicted_iou": None}, {"point_coords": []}, {"crop_box": [0, 0, 4, 4], "point_coords": [[1, 2.5]]}):
        (tmp_path / "a.json").write_text(json.dumps([{**good, **fine}]))
        assert ImportedMasks(tmp_path, 1).expect("a.png", 4, 4) is None, fine


def test_imported_masks_match_by_name_and_size(tmp_path):
    """By path, then by stem; cut like the picture; missing, foreign and damaged ones are told with the reason."""
    mask = np.zeros((26, 35), bool)
    mask[3:20, 4:34] = True
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text(json.dumps(records_of(mask)))
    (tmp_path / "b.json").write_text(json.dumps({"annotations": records_of(mask[:24, :32])}))
    (tmp_path / "bad.json").write_text('{"masks": [')
    (tmp_path / "png.json").write_text('[{"segmentation": [[1, 2]]}]')
    cut = records_of(mask)
    cut[0]["segmentation"]["counts"] = cut[0]["segmentation"]["counts"][:-1]
    (tmp_path / "cut.json").write_text(json.dumps(cut))
    source = ImportedMasks(tmp_path, scale=4)
    assert source.expect("sub/a.png", 24, 32) is None
    assert source.expect("other/b.jpg", 24, 32) is None
    assert "no masks: expected c.json" in source.expect("c.png", 24, 32)
    assert "made for 35 x 26 pixels (W x H), the picture has 32 x 28" in source.expect("sub/a.png", 28, 32)
    assert "its masks bad.json: not readable as JSON" in source.expect("bad.png", 24, 32)
    assert not any(str(tmp_path) in source.expect(name, 24, 32) for name in ("c.png", "bad.png", "cut.png"))
    assert "COCO RLE (amg.py --convert-to-rle)" in source.expect("png.png", 24, 32)
    assert "damaged" in source.expect("cut.png", 24, 32)
    first, second = source.generate_batch([np.zeros((24, 32, 3), np.uint8)] * 2)
    for records in (first, second):
        counts = counts_of(records[0]["segmentation"], 24, 32)
        np.testing.assert_array_equal(decode(counts, 24, 32), mask[:24, :32])
    before = source.describe()
    (tmp_path / "b.json").write_text("[]")
    assert ImportedMasks(tmp_path, 4).describe() != before
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"expected a folder with NAME\.json"):
        ImportedMasks(tmp_path / "empty", 4)
