"""Duplicates are found in another size and another JPEG, and plain images are none."""

import io

import numpy as np
import pytest
from PIL import Image

from support.images import saved
from training.data import duplicates
from training.data.images import Images, drawn_images, thumbnail

SIZE = 64
SCENES = drawn_images(60, 256)


def images(pixels, *, thumbnails=True):
    small = np.stack([thumbnail(image) for image in pixels]) if thumbnails else None
    labels = np.zeros(len(pixels), np.int64)
    return Images(pixels, labels) if small is None else Images(pixels, labels, thumbnails=small)


def fitted(scenes, side=SIZE):
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in scenes])


def recoded(scene):
    half = Image.fromarray(scene).resize((128, 128))
    return np.asarray(Image.open(io.BytesIO(saved(half, "JPEG", quality=40))))


def test_other_scenes_are_no_duplicates():
    found = duplicates.between(images(fitted(SCENES[:30])), images(fitted(SCENES[30:])))
    assert not len(found.positions)
    assert found.equal == 0


def test_a_smaller_jpeg_of_a_scene_is_one_and_an_equal_image_is_counted():
    ours = fitted([SCENES[3], recoded(SCENES[5]), SCENES[50]])
    found = duplicates.between(images(ours), images(fitted(SCENES[:30])))
    assert found.positions.tolist() == [0, 1]
    assert found.of.tolist() == [3, 5]
    assert found.equal == 1


@pytest.mark.parametrize("thumbnails", [True, False])
def test_thumbnails_are_taken_where_a_source_has_none(thumbnails):
    found = duplicates.between(
        images(fitted(SCENES[:2]), thumbnails=thumbnails), images(fitted(SCENES[:2]))
    )
    assert found.of.tolist() == [0, 1]


def test_plain_images_of_other_colours_are_no_duplicates_although_they_share_a_hash():
    plain = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    plain += np.array([[30, 200, 30], [200, 30, 30], [30, 30, 200]], np.uint8)[:, None, None]
    assert duplicates.between(images(plain[:1]), images(plain[1:])).positions.tolist() == []


def test_any_number_of_equal_images_is_compared_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_COMPARED", 5)
    same = images(np.repeat(fitted(SCENES[:1]), 500, axis=0))
    assert duplicates.between(same, same).equal == 500
