"""Images are held out evenly over the classes, and none is both held out and left."""

import numpy as np
import pytest

from training.data.split import draw_each, hold_out

LABELS = np.repeat(np.arange(3), [40, 50, 60])


def test_every_class_has_as_many_images_held_out():
    remaining, held_out = hold_out(LABELS, 30, seed=0)
    assert np.bincount(LABELS[held_out]).tolist() == [10, 10, 10]
    assert np.sort(np.concatenate([remaining, held_out])).tolist() == list(range(150))


def test_the_seed_decides_which_images_are_held_out():
    first, again, other = (hold_out(LABELS, 30, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("count", [2, 120])
def test_too_few_or_too_many_held_out_are_rejected_with_the_limits(count):
    with pytest.raises(
        ValueError, match=f"{count} images are to be held out.*hold out between 3 and 117"
    ):
        hold_out(LABELS, count, seed=0)


def test_a_class_with_fewer_images_gives_all_of_them():
    drawn = draw_each(LABELS, 45, seed=0)
    assert np.bincount(LABELS[drawn]).tolist() == [40, 45, 45]
    assert np.all(np.diff(drawn) > 0)
