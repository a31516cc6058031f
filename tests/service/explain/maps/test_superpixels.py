"""Superpixels follow the edges of an image, in a time that its size does not change."""

import numpy as np
import pytest

from service.errors import InvalidParameter
from service.explain import ask
from service.explain.maps.segments import areas, grid
from service.explain.maps.superpixels import MOST_SIDE, _lab, superpixels


def two_colours(height, width, edge):
    """Red left of the column `edge`, blue right of it, with noise."""
    image = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    image[:, :edge, 0] += 180
    image[:, edge:, 2] += 180
    return image.astype(np.uint8)


@pytest.mark.parametrize(("height", "width", "edge"), [(32, 32, 14), (48, 100, 31), (96, 32, 5)])
def test_no_superpixel_lies_on_both_sides_of_an_edge(height, width, edge):
    cut = superpixels(two_colours(height, width, edge), 8)
    assert not set(cut[:, :edge].ravel()) & set(cut[:, edge:].ravel())
    lines = grid((height, width), 8)
    assert set(lines[:, :edge].ravel()) & set(lines[:, edge:].ravel())


def test_an_image_of_one_colour_is_cut_by_the_grid():
    assert np.array_equal(superpixels(np.full((48, 32, 3), 90, np.uint8), 4), grid((48, 32), 4))


@pytest.mark.parametrize("cells", [2, 8, 32])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (32, 32), (300, 7), (7, 300), (90, 160)])
def test_superpixels_are_numbered_without_gaps_and_no_more_than_cells(shape, cells):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    cut = superpixels(image, cells)
    assert cut.shape == shape
    assert areas(cut).min() > 0
    assert len(areas(cut)) <= len(areas(grid(shape, cells)))
    assert cut.tobytes() == superpixels(image, cells).tobytes()


@pytest.mark.parametrize("side", [MOST_SIDE, MOST_SIDE + 1, 5 * MOST_SIDE])
def test_of_a_large_image_a_small_copy_is_cut(side):
    image = two_colours(side, side // 2, side // 3)
    cut = superpixels(image, 8)
    step = -(-side // MOST_SIDE)
    blocks = np.arange(side) // step * step
    assert np.array_equal(cut, cut[blocks[:, None], blocks[: side // 2]])
    across = np.abs(np.diff(cut[side // 2])) > 0
    assert across[side // 3 - step : side // 3 + step].any()  # the edge is cut along


def test_colours_are_compared_in_cielab():
    corners = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    # CSS Color 4 has these of the corners of sRGB, with the white point D50.
    expected = [[54.29, 80.8, 69.89], [87.82, -79.27, 80.99], [29.57, 68.3, -112.03], [100, 0, 0]]
    assert np.abs(_lab(corners)[0] - expected).max() < 1


@pytest.mark.parametrize("given", ["slic", "", 8, None])
def test_other_segmentations_are_rejected(given, engine):
    with pytest.raises(InvalidParameter, match=r"segmentation is .*; it is one of grid, superp"):
        ask(engine.manifest, "lime", None, {"segmentation": given})
