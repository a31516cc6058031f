"""Overlays keep the coordinates and colours of the image and leave it recognisable."""

import io

import numpy as np
import pytest
from PIL import Image

from service.explain import render
from service.explain.colours import oklab
from service.explain.encoding import picture
from service.image.resize import Box
from support.images import draw

GREY = np.full((40, 60, 3), 100, np.uint8)
WHOLE = Box(0, 0, 60, 40)


def colours(overlay):
    return np.ptp(overlay.astype(int), axis=2)


def test_an_all_zero_map_leaves_the_image_with_its_colours():
    pixels = draw(size=64)
    zeros, whole = np.zeros((8, 8), np.float32), Box(0, 0, 64, 64)
    assert np.array_equal(render.overlay(pixels, zeros, whole, "sequential"), pixels)
    muted = colours(render.overlay(pixels, zeros, whole, "diverging"))
    assert (2 * muted >= colours(pixels) - 2).all()


def test_a_weaker_map_leaves_more_of_the_image():
    values = np.ones((8, 8), np.float32)
    strong, weak = (render.overlay(GREY, values, WHOLE, "diverging", most) for most in (1.0, 20.0))
    nothing = render.overlay(GREY, values, WHOLE, "diverging", 0.0)
    assert np.array_equal(nothing, GREY)
    assert 0 < colours(weak).max() < 10
    assert colours(strong).min() > 60


def test_what_the_network_did_not_see_is_dark_behind_a_white_frame():
    result = render.overlay(GREY, np.zeros((8, 8), np.float32), Box(10, 0, 50, 40), "diverging")
    assert (result[:, 10:50] == 100).all()
    assert (result[:, [9, 50]] == 255).all()
    assert (result[:, :9] == 40).all()
    assert (result[:, 51:] == 40).all()


@pytest.mark.parametrize("box", [WHOLE, Box(-10, 0, 70, 40), Box(0.3, 0.2, 59.8, 39.7)])
def test_an_image_that_was_seen_whole_has_no_frame(box):
    result = render.overlay(GREY, np.zeros((8, 8), np.float32), box, "diverging")
    assert (result == 100).all()


def test_the_sign_is_read_without_colours():
    large, whole = np.full((200, 200, 3), 150, np.uint8), Box(0, 0, 200, 200)
    values = np.zeros((8, 8), np.float32)
    values[:, :3], values[:, 5:] = 1, -1
    grey = render.overlay(large, values, whole, "diverging").astype(float).mean(2)
    favour, zero, against = grey[20:180, 20:50], grey[20:180, 95:105], grey[20:180, 150:180]
    assert favour.std() < 1
    assert against.std() > 10, "hatched"
    assert zero.std() < 6
    assert np.abs(np.diff(grey[100, 50:100])).max() > 30, "a line runs around what is strong"


def test_small_images_have_no_lines():
    values = np.full((8, 8), -1, np.float32)
    assert np.ptp(render.overlay(GREY, values, WHOLE, "diverging"), axis=(0, 1)).max() == 0


def test_lines_go_on_from_strip_to_strip(monkeypatch):
    pixels, whole = draw(size=256), Box(0, 0, 256, 256)
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    once = render.overlay(pixels, values, whole, "diverging")
    monkeypatch.setattr(render, "STRIP_PIXELS", 256 * 7)
    assert np.array_equal(render.overlay(pixels, values, whole, "diverging"), once)


def test_for_is_orange_and_against_is_blue():
    values = np.zeros((8, 8), np.float32)
    values[2:4, 1:3], values[5:7, 5:7] = 1, -1
    result = render.overlay(GREY, values, WHOLE, "diverging").astype(int)
    assert result[15, 15, 0] > result[15, 15, 2] + 100
    assert result[30, 45, 2] > result[30, 45, 0] + 50


def test_a_sequential_scale_shows_the_positive_part():
    values = np.full((8, 8), -1, np.float32)
    values[:, :4] = 1
    shown = colours(render.overlay(GREY, values, WHOLE, "sequential"))
    assert shown[:, :20].min() > 50
    assert shown[:, 40:].max() == 0


def test_the_map_lies_where_the_network_looked():
    values = np.ones((8, 8), np.float32)
    shown = colours(render.overlay(GREY, values, Box(10, 0, 50, 40), "diverging"))
    assert (shown[:, 10:50] > 50).all()
    assert (shown[:, :10] == 0).all()
    assert (shown[:, 50:] == 0).all()


def test_a_box_beyond_the_image_is_cut():
    result = render.overlay(GREY, np.ones((8, 8), np.float32), Box(0, -10, 60, 50), "diverging")
    assert result.shape == GREY.shape


def test_one_strong_pixel_does_not_hide_the_others():
    values = np.full((32, 32), 1, np.float32)
    values[0, 0] = 1000
    assert colours(render.overlay(GREY, values, WHOLE, "diverging"))[20, 30] > 50


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (3000, 4000), (9_000_000, 1)])
def test_the_ground_keeps_its_proportions_within_four_megapixels(height, width):
    result = render.ground(np.zeros((height, width, 3), np.uint8))
    assert result.shape[0] * result.shape[1] <= 4_000_000
    assert (
        result.shape[1] / result.shape[0] == pytest.approx(width / height, rel=0.01) or width == 1
    )


def test_a_png_holds_the_overlay():
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture(GREY)))), GREY)


@pytest.mark.parametrize(
    ("scale", "values"), [("sequential", 1.0), ("diverging", 1.0), ("diverging", -1.0)]
)
def test_the_image_is_recognisable_below_the_strongest_colour(scale, values):
    pixels = draw(size=64)
    result = render.overlay(pixels, np.full((8, 8), values, np.float32), Box(0, 0, 64, 64), scale)
    grey = np.asarray(Image.fromarray(pixels).convert("L"), float)
    assert np.corrcoef(oklab(result / 255)[..., 0].ravel(), grey.ravel())[0, 1] > 0.97
    assert np.ptp(oklab(result / 255)[..., 0]) > 0.05


def test_the_image_is_recognisable_below_a_random_map():
    pixels, values = draw(size=64), np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    result = render.overlay(pixels, values, Box(0, 0, 64, 64), "diverging").astype(float)
    edges = [
        np.abs(np.diff(image, axis=1)).ravel()
        for image in (np.asarray(Image.fromarray(pixels).convert("L"), float), result.mean(2))
    ]
    assert np.corrcoef(*edges)[0, 1] > 0.7


def test_the_same_map_gives_the_same_bytes():
    values = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    first, second = (picture(render.overlay(GREY, values, WHOLE, "diverging")) for _ in range(2))
    assert first == second


def test_the_limit_is_what_the_strongest_colour_stands_for():
    values = np.full((32, 32), -1, np.float32)
    values[0, 0] = 1000
    assert (render.limit(values, "diverging"), render.limit(values, "sequential")) == (1.0, 1000.0)
    assert render.exceeds(values, "diverging", 1.0) == (False, True)
    assert render.limit(np.zeros((8, 8), np.float32), "diverging") == 0
    assert render.exceeds(np.zeros((8, 8), np.float32), "diverging", 0.0) == (False, False)


@pytest.mark.parametrize(
    ("height", "width", "times"),
    [(32, 32, 8), (1, 1, 256), (200, 100, 1), (100, 60, 2), (1000, 10, 1)],
)
def test_small_images_are_magnified_for_a_person(height, width, times):
    assert render.magnified(np.zeros((height, width, 3), np.uint8)).shape == (
        height * times,
        width * times,
        3,
    )
