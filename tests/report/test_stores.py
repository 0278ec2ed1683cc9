"""What a page shows of a store equals what is in it."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from samdiff import open_store
from samdiff.errors import StoreError
from samdiff.report.files import ImageFiles
from samdiff.report.page import as_script
from samdiff.report.parts import as_values
from samdiff.report.stores import _notes, assembled, chosen_images, histogram, open_for_report, read_store

from ..helpers.stores import T, make_store


@pytest.fixture
def files(tmp_path):
    return ImageFiles(tmp_path / "files", inline_bytes=1 << 30)


def test_numbers_images_and_masks(tmp_path, files):
    store = open_store(make_store(tmp_path / "a.zarr"))
    part = read_store(store, files, images=200, side=1000)
    assert dict(part.numbers) | {"on disk": ""} == {
        "images": "3", "skipped": "0", "masks": "3", "tiles": "10", "scale": "x4", "on disk": ""
    }  # fmt: skip
    assert part.names == ("0.png", "1.png", "2.png")
    assert part.masks == (2, 0, 1)
    assert sum(part.tiles) == 10
    assert [image.index for image in part.drawn] == [0, 1, 2]
    painted = np.zeros((T, T), bool)
    painted[:15, :] = True  # the union of the masks of `make_store`: y < 10 and y < 15 with x >= 2
    painted[10:15, :2] = False
    assert part.drawn[0].coverage == pytest.approx(painted.mean())
    assert [point[0] for point in part.drawn[0].points] == [2, 1] or [point[0] for point in part.drawn[0].points] == [1, 2]
    assert json.loads(as_script(as_values(part)))["drawn"][0]["width"] == T


def test_an_image_is_put_together_from_its_tiles(tmp_path, files):
    """Four tiles of 24 in an image of 40: they overlap, and each pixel is that of a tile; a place without a tile is grey."""
    store = open_store(make_store(tmp_path / "a.zarr"))
    places = np.array([(0, 0), (0, 16), (16, 0)])
    canvas = assembled(store, "hr", np.arange(3), places=places, size=(40, 40))
    for row, (y, x) in list(enumerate(places))[::-1][:1]:
        assert np.array_equal(canvas[y : y + T, x : x + T], store.read_tiles("hr", [row])[0])
    assert np.array_equal(canvas[:16, :16], store.read_tiles("hr", [0])[0][:16, :16])
    assert (canvas[30:, 30:] == canvas[-1, -1]).all()
    lr = assembled(store, "lr", np.arange(1), places=places[:1] // 4, size=(10, 10))
    assert np.array_equal(lr[:6, :6], store.read_tiles("lr", [0])[0])


def test_layers_are_reduced_to_the_requested_side(tmp_path, files):
    part = read_store(open_store(make_store(tmp_path / "a.zarr")), files, images=1, side=12)
    (image,) = part.drawn
    assert (image.width, image.height) == (12, 12)
    for key in (image.base, image.masks, image.edges, image.structure):
        assert Image.open(io.BytesIO(files.inline[key])).size == (12, 12)
    assert "1 of 3 images are drawn" in part.notes[0]


def test_an_image_that_is_too_large_is_not_drawn(tmp_path, files, monkeypatch):
    """Before memory is taken for it; the page says so."""
    monkeypatch.setattr("samdiff.report.stores.MOST_PIXELS", T * T - 1)
    part = read_store(open_store(make_store(tmp_path / "a.zarr")), files, images=9, side=99)
    assert not part.drawn
    assert part.notes[0].startswith("3 images have more than ")


def test_images_are_spread_over_the_store():
    tiles = np.ones(1000, int)
    tiles[[0, 999]] = 0
    assert chosen_images(tiles, 3) == [1, 499, 998]
    assert chosen_images(tiles, 0) == []
    assert chosen_images(tiles, 5000) == list(range(1, 999))


def test_histograms_count_every_value():
    whole = histogram(np.array([0, 1, 1, 7, 300]), title="t", label="l", of="images")
    assert sum(whole.counts) == 5
    assert all(edge % 1 == 0.5 for edge in whole.edges)
    area = histogram(np.array([0, 1, 10, 1e6]), title="t", label="l", of="masks", logarithmic=True)
    assert sum(area.counts) == 3
    assert area.note == "without 1 that have no value"
    constant = histogram(np.array([0.9, 0.9, np.nan], np.float32), title="t", label="l", of="masks")
    assert sum(constant.counts) == 2
    assert sum(histogram(np.zeros(0), title="t", label="l", of="masks").counts) == 0
    percent = histogram(np.array([0.0, 100.0]), title="t", label="l", of="images", bounds=(0, 100))
    assert (percent.edges[0], percent.edges[-1], percent.counts[0], percent.counts[-1]) == (0, 100, 1, 1)


def test_a_half_written_store_says_how_to_resume(tmp_path):
    (tmp_path / "a.zarr.staging").mkdir()
    (tmp_path / "a.zarr.staging" / "settings.json").write_text("{}")
    with pytest.raises(StoreError, match=r"report: .*a\.zarr: the store is not finished .*resume it with the same"):
        open_for_report(str(tmp_path / "a.zarr"))


def test_a_store_without_tiles_is_noted():
    class Empty:
        def __len__(self):
            return 0

    (note,) = _notes(Empty(), drawn=0, usable=0, large=0)
    assert "has no tiles" in note
