"""Maps of many pixels are drawn by the means of cells; the raw map stays."""

from dataclasses import replace

import numpy as np
import pytest

from service.explain import ask, explain
from service.explain.cells import cell_of, means, smooth, smooth_of
from service.explain.maps.cam import scaled


@pytest.mark.parametrize(
    ("shape", "signed", "cell"),
    [((32, 32), True, 1), ((95, 300), True, 1), ((224, 224), True, 16), ((224, 448), False, 8)],
)
def test_cells_are_as_large_as_an_eye_needs(shape, signed, cell):
    assert cell_of(shape, signed=signed) == cell


@pytest.mark.parametrize("shape", [(224, 224), (100, 230), (97, 101)])
def test_each_cell_has_the_mean_of_its_pixels(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shown = means(values, 8)
    assert shown.shape == (shape[0] // 8, shape[1] // 8)
    rows, columns = (np.arange(side) * (side // 8) // side for side in shape)
    for row, column in ((0, 0), (3, 5), (shown.shape[0] - 1, shown.shape[1] - 1)):
        cell = values[rows == row][:, columns == column]
        assert shown[row, column] == pytest.approx(cell.mean(), abs=1e-6)


def test_the_surface_has_no_creases_and_no_sign_of_its_own():
    cells = np.zeros((6, 6), np.float32)
    cells[2, 2], cells[3, 3] = 1, 0.5
    surface = smooth(cells)
    assert surface.shape == (48, 48)
    assert (surface >= 0).all()
    assert surface.max() <= 1
    slopes = np.diff(surface, axis=1)
    assert np.abs(np.diff(slopes, axis=1)).max() < 0.25 * np.abs(slopes).max()


@pytest.mark.parametrize("shape", [(224, 224), (100, 230)])
def test_the_surface_of_a_scaled_map_is_found_without_its_pixels(shape):
    few = np.random.default_rng(0).normal(size=(7, 9)).astype(np.float32)
    by_pixels = smooth(means(scaled(few[None], shape)[0], 16))
    assert smooth_of(few, shape, 16) == pytest.approx(by_pixels, abs=1e-5)


def test_of_a_cell_of_one_pixel_the_map_is_drawn_itself():
    values = np.eye(4, dtype=np.float32)
    assert means(values, 1) is values


def test_only_maps_of_pixels_are_gathered_and_their_values_stay(engine):
    pixels = np.zeros((32, 32, 3), np.uint8)
    logits = engine.predict(pixels[None]).logits[0]
    for method, shape in (
        ("input_x_gradient", (112, 112)),
        ("saliency", (224, 224)),
        ("grad_cam", (112, 112)),
    ):
        found = explain(engine, pixels, ask(engine.manifest, method, None, {}), logits)
        large = replace(found, map=np.ones((224, 224), np.float32))
        assert found.shown is found.map
        assert large.shown.shape == shape
        assert large.map.shape == (224, 224)
    occluded = explain(engine, pixels, ask(engine.manifest, "occlusion", None, {}), logits)
    assert replace(occluded, map=np.ones((224, 224), np.float32)).cell == 1
