"""The same share of each class is held out, and no image is both held out and left."""

import numpy as np
import pytest

from training.data.split import draw_each, hold_out

LABELS = np.repeat(np.arange(3), [40, 50, 60])


@pytest.mark.parametrize("held_out", [30, 0.2])
def test_the_same_share_of_every_class_is_held_out(held_out):
    remaining, held_out = hold_out(LABELS, held_out, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [8, 10, 12]
    assert np.sort(np.concatenate([remaining, held_out])).tolist() == list(range(150))


def test_the_seed_decides_which_images_are_held_out():
    first, again, other = (hold_out(LABELS, 30, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_rare_class_has_one_image_held_out():
    labels = np.repeat(np.arange(2), [100, 2])
    assert np.bincount(labels[hold_out(labels, 0.1, seed=0)[1]]).tolist() == [10, 1]


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(ValueError, match=r"10% are to be held out.*smallest class has one image"):
        hold_out(np.array([0, 0, 1]), 0.1, seed=0)


@pytest.mark.parametrize("count", [2, 149])
def test_too_few_or_too_many_held_out_are_rejected_with_the_limits(count):
    with pytest.raises(
        ValueError, match=f"{count} images are to be held out.*hold out between 3 and 146"
    ):
        hold_out(LABELS, count, seed=0)


def test_a_class_with_fewer_images_gives_all_of_them():
    drawn = draw_each(LABELS, 45, seed=0)
    assert np.bincount(LABELS[drawn]).tolist() == [40, 45, 45]
    assert np.all(np.diff(drawn) > 0)
