"""When two lists of mask records are the same masks."""

import numpy as np
import pytest
from pycocotools import mask as coco


def overlaps(ours: list[dict], theirs: list[dict]) -> np.ndarray:
    """float64 [n, m]: IoU of each of our masks with each of theirs."""
    found = coco.iou([r["segmentation"] for r in ours], [r["segmentation"] for r in theirs], [0] * len(theirs))
    return np.asarray(found).reshape(len(ours), len(theirs))


def assert_same_masks(ours: list[dict], theirs: list[dict]) -> None:
    """Same number, same order up to ties of predicted IoU, twins at IoU >= .999, predicted IoU within 1e-4."""
    assert len(ours) == len(theirs)
    scores = np.array([[record["predicted_iou"] for record in records] for records in (ours, theirs)])
    assert np.abs(scores[0] - scores[1]).max(initial=0) < 1e-4
    overlap = overlaps(ours, theirs)
    for k, record in enumerate(ours):
        twins = np.flatnonzero(np.abs(scores[1] - record["predicted_iou"]) < 1e-4)
        twin = theirs[twins[overlap[k, twins].argmax()]]
        assert overlap[k, twins].max() >= 0.999
        assert record["point_coords"] == twin["point_coords"]
        assert record["crop_box"] == twin["crop_box"]
        np.testing.assert_allclose(record["bbox"], twin["bbox"], atol=1)
        assert record["stability_score"] == pytest.approx(twin["stability_score"], abs=1e-4)
        assert record["area"] == int(coco.area(record["segmentation"]))
