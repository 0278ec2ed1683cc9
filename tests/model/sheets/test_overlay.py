"""Mask overlay and structure map: neighbours differ in colour, values keep their colours, nothing outside the masks is painted."""

import math

import numpy as np
import pytest

from samdiff.model.sheets.overlay import (
    colour_bar,
    diverging,
    mask_overlay,
    neighbour_colours,
    structure_map,
)


def checkerboard(side: int, cell: int) -> np.ndarray:
    """Labels 1, 2, … of cells in reading order, int [side, side]."""
    rows, columns = np.divmod(np.arange(side * side).reshape(side, side), side)
    return rows // cell * (side // cell) + columns // cell + 1


def test_neighbours_have_different_colours():
    labels = checkerboard(120, 20)
    colours = neighbour_colours(labels)[labels]
    for axis in (0, 1):
        a, b = np.take(labels, range(119), axis), np.take(labels, range(1, 120), axis)
        ca, cb = np.take(colours, range(119), axis), np.take(colours, range(1, 120), axis)
        assert (ca != cb)[a != b].all()


def test_masks_a_few_pixels_apart_differ_too():
    labels = np.zeros((10, 40), int)
    labels[:, :18], labels[:, 22:] = 1, 2
    first, second = neighbour_colours(labels)[1:]
    assert first != second


def test_more_neighbours_than_colours():
    """A star of 40 masks around one: the centre is unlike as many as can be, and nothing fails."""
    angle = np.arctan2(*np.mgrid[-50:50, -50:50])
    labels = ((angle + math.pi) / (2 * math.pi) * 39.999).astype(int) + 2
    labels[40:60, 40:60] = 1
    assert len(set(neighbour_colours(labels)[1:].tolist())) == 12


def test_overlay_leaves_what_no_mask_covers():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    labels = np.zeros((60, 80), np.uint16)
    labels[10:30, 10:40] = 1
    painted = mask_overlay(labels, image)
    np.testing.assert_array_equal(painted[40:], image[40:])
    assert (painted[15:25, 15:35] != image[15:25, 15:35]).any(axis=2).mean() > 0.99
    assert (painted[10:30, 39] == 255).all()
    assert (painted[29, 10:40] == 255).all()
    np.testing.assert_array_equal(mask_overlay(np.zeros_like(labels), image), image)


def test_colours_of_masks_do_not_depend_on_those_of_the_image():
    """The image is grey below the fill: on pure red and on pure blue, the same mask has the same hue."""
    labels = np.ones((60, 80), np.uint16)
    for image_colour, grey in (((255, 0, 0), 76), ((0, 0, 255), 29)):
        painted = mask_overlay(labels, np.full((60, 80, 3), image_colour, np.uint8))
        np.testing.assert_allclose(painted[30, 40] - 0.5 * grey, 0.5 * np.array((230, 159, 0)), atol=1)


def test_structure_map_has_a_fixed_scale():
    """The same value has the same colour in any map; pixels without a mask are hatched."""
    labels = np.repeat(np.array([[1, 2, 0]]), 30, axis=0).repeat(30, axis=1)
    one = structure_map(np.where(labels == 1, 0.5, -0.1), labels)
    other = structure_map(np.where(labels == 1, 0.5, -1.2), labels)
    np.testing.assert_array_equal(one[15, 15], other[15, 15])
    np.testing.assert_array_equal(one[15, 15], diverging(np.array(0.5 / math.sqrt(2))))
    assert len(np.unique(one[:, 61:].reshape(-1, 3), axis=0)) == 2
    assert (np.ptp(one[:, 61:].astype(int), axis=2) == 0).all()  # grey


@pytest.mark.parametrize(
    ("value", "colour"), [(-1, (33, 102, 172)), (0, (250, 250, 250)), (1, (178, 24, 43)), (9, (178, 24, 43))]
)
def test_diverging_colours(value, colour):
    assert tuple(diverging(np.array([value]))[0]) == colour


def test_the_colour_bar_names_its_ends():
    """Its first and last columns are the ends of the map, with dark text below."""
    bar = colour_bar("-1.41", "E_SAM 0", "1.41", 300)
    assert bar.shape == (30, 300, 3)
    assert tuple(bar[0, 0]) == (33, 102, 172)
    assert tuple(bar[0, -1]) == (178, 24, 43)
    for part in (bar[16:, :40], bar[16:, 130:170], bar[16:, -40:]):
        assert (part < 100).any()
