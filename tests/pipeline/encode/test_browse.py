"""Indices as Python means them; masks drawn over pixels; HTML that no name can break."""

import base64
import re

import cv2
import numpy as np
import pytest

from samdiff.errors import IndexKindError, PositionError
from samdiff.pipeline.encode.browse import html_table, index_in, masks_over, spread


def test_indices_are_those_of_a_list():
    letters = "abcde"
    for index in range(-5, 5):
        assert letters[index_in(index, 5, several="x")] == letters[index]
    for index in (-6, 5, 2**70):
        with pytest.raises(PositionError, match="expected -5 to 4; the length is 5"):
            index_in(index, 5, several="x")
    assert index_in(2**40, 5, several="x", beyond=True) == 2**40
    with pytest.raises(PositionError):
        index_in(2**62, 5, several="x", beyond=True)
    with pytest.raises(IndexKindError, match="got a slice; read_many returns several at once"):
        index_in(slice(1), 5, several="read_many")


def test_spread_reaches_both_ends():
    assert spread(0, 4) == []
    assert spread(1, 4) == [0]
    assert spread(3, 4) == [0, 1, 2]
    assert spread(100, 4) == [0, 33, 66, 99]


def test_masks_have_colours_of_their_own():
    """Pixels without a mask stay; each mask is tinted in one colour that differs from the others'; a dark line lies between."""
    labels = np.repeat(np.arange(6), 4)[None].repeat(8, axis=0)
    out = masks_over(np.full((8, 24, 3), 200, np.uint8), labels)
    assert (out[:, :4] == 200).all()
    inside = out[4, 2::4].astype(int)
    distances = np.abs(inside[:, None] - inside[None]).sum(axis=2) + 1000 * np.eye(6, dtype=int)
    assert distances.min() > 30
    assert (out[4, 4::4].astype(int).sum(axis=1) < 0.5 * inside[1:].sum(axis=1)).all()


def test_html_escapes_and_shows_small_images():
    hr = np.full((256, 64, 3), (250, 10, 20), np.uint8)
    tile = {"hr": hr, "labels": np.zeros((256, 64), np.uint16)}
    page = html_table("T", {"place": "<script>\x1b"}, {"a&b": tile}, note="damaged <x>")
    assert "&lt;script&gt;\\x1b" in page
    assert "<script>" not in page
    assert "a&amp;b" in page
    assert "damaged &lt;x&gt;" in page
    images = [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1) for text in re.findall(r"base64,([^\"]+)", page)]
    assert [image.shape for image in images] == [(128, 32, 3)] * 2
    assert images[0][0, 0].tolist() == [20, 10, 250]  # OpenCV's order
