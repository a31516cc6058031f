"""The one resize shows the network the promised part of an image, and of a mask the same."""

import numpy as np
import pytest

from service.image import resize
from service.image.resize import Input
from support.images import draw

SPEC = Input(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_an_image_of_the_right_size_does_not_change():
    assert np.array_equal(resize.to_input(draw(), SPEC), draw())


def test_crop_takes_the_middle_of_the_shorter_side():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (resize.to_input(wide, Input(10, SPEC.mean, SPEC.std)) == 200).all()
    assert resize.visible_box(30, 10, Input(10, SPEC.mean, SPEC.std)) == (10, 0, 20, 10)


def test_crop_of_a_larger_short_side_takes_less():
    assert resize.visible_box(256, 256, Input(224, SPEC.mean, SPEC.std, short_side=256)) == (
        16,
        16,
        240,
        240,
    )


def test_stretch_shows_everything():
    spec = Input(8, SPEC.mean, SPEC.std, resize="stretch")
    assert resize.visible_box(30, 10, spec) == (0, 0, 30, 10)
    assert resize.to_input(draw(width=64), spec).shape == (8, 8, 3)


def test_pad_shows_everything_in_proportion_with_the_mean_around():
    spec = Input(30, SPEC.mean, SPEC.std, resize="pad")
    result = resize.to_input(np.full((10, 30, 3), 255, np.uint8), spec)
    assert resize.visible_box(30, 10, spec) == (0, -10, 30, 20)
    assert (result[10:20] == 255).all()
    assert (result[:10] == 128).all()
    assert (result[20:] == 128).all()


@pytest.mark.parametrize("size", [32, 224, (10, 40)])
@pytest.mark.parametrize("sent", [(447, 696), (696, 447), (40, 41), (1000, 3), (31, 33)])
def test_what_is_drawn_back_from_a_padded_input_lies_on_the_image(sent, size):
    width, height = sent
    spec = Input(size, (0.0, 0.0, 0.0), SPEC.std, resize="pad")
    seen = resize.to_input(np.full((height, width, 3), 255, np.uint8), spec)[..., 0] > 0
    down, across = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    box = resize.visible_box(width, height, spec)
    rows, columns = spec.shape
    wide, high = (box.right - box.left) / columns, (box.bottom - box.top) / rows
    assert box.left + wide * np.array([across[0], across[-1] + 1]) == pytest.approx([0, width])
    assert box.top + high * np.array([down[0], down[-1] + 1]) == pytest.approx([0, height])


WIDE = (10, 40)


@pytest.mark.parametrize(
    ("rule", "short", "box"),
    [
        ("crop", 0, (0, 37.5, 100, 62.5)),
        ("crop", 20, (25, 43.75, 75, 56.25)),
        ("stretch", 0, (0, 0, 100, 100)),
        ("pad", 0, (-150, 0, 250, 100)),
    ],
)
def test_a_rectangle_sees_a_box_of_its_own_aspect(rule, short, box):
    assert resize.visible_box(100, 100, Input(WIDE, SPEC.mean, SPEC.std, rule, short)) == box


def test_pixels_of_a_rectangle_are_where_its_box_is():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, 50:] = 200
    for rule in ("crop", "stretch", "pad"):
        fitted = resize.to_input(pixels, Input(WIDE, (0.5,) * 3, (1.0,) * 3, rule))
        assert fitted.shape == (10, 40, 3)
        assert (fitted[:, 15:18] == 0).all()
        assert (fitted[:, 22:25] == 200).all()
        assert ((fitted[:, :14] == 128) == (rule == "pad")).all()


def test_a_square_given_as_a_rectangle_is_the_square():
    assert Input((16, 16), SPEC.mean, SPEC.std) == Input(16, SPEC.mean, SPEC.std)


SPECS = [
    Input(size, (0.5,) * 3, (1.0,) * 3, rule, short)
    for size in (16, (8, 24), (20, 12))
    for rule, short in (("crop", 0), ("crop", 20), ("stretch", 0), ("pad", 0))
]


@pytest.mark.parametrize(
    "spec", SPECS, ids=lambda spec: f"{spec.size} {spec.resize} {spec.short_side}"
)
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (32, 32), (64, 96), (100, 33), (7, 50), (1, 300)]
)
def test_the_network_sees_mask_and_image_alike(height, width, spec):
    left = np.arange(width) < width * 0.6
    labels = np.broadcast_to(np.where(left, 5, 9), (height, width)).astype(np.uint16)
    pixels = np.broadcast_to(np.where(left, 0, 250)[None, :, None], (height, width, 3)).astype(
        np.uint8
    )
    fitted, seen = (
        resize.mask_to_input(labels, spec),
        resize.to_input(pixels, spec).astype(int)[:, :, 0],
    )
    assert set(np.unique(fitted)) <= {-1, 5, 9}
    assert ((seen < 60) == (fitted == 5)).mean() > 0.93  # at the border the image blends
    assert (
        np.array_equal(fitted == -1, seen == 128)
        or spec.resize != "pad"
        or (height, width) == (1, 300)
    )
