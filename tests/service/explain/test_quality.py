"""The weight of a map beside the spread of the logits."""

import numpy as np
import pytest

from service.explain import quality

MAP = np.array([[0.5, -1.5], [0, 1]], np.float32)


def test_the_weight_is_a_sum_where_pixels_count_together_else_the_largest_value():
    assert quality.weight(MAP, summed=True) == 3
    assert quality.weight(MAP, summed=False) == 1.5


@pytest.mark.parametrize(
    ("logits", "sigmoid", "spread"),
    [([1, 3, -2], False, 5), ([1, 3], True, 3), ([-4], True, 4), ([2, 2], False, 0.2)],
)
def test_the_spread_is_that_of_the_classes_or_to_zero_for_sigmoids(logits, sigmoid, spread):
    found = quality.spread(np.array(logits, np.float32), sigmoid=sigmoid)
    assert found == pytest.approx(spread)


@pytest.mark.parametrize("summed", [True, False])
def test_zero_and_rounding_are_nothing_and_so_much_is_something(summed):
    assert quality.is_nothing(quality.weight(np.zeros((2, 2), np.float32), summed=summed), 0.0)
    assert quality.is_nothing(quality.weight(1e-7 * MAP, summed=summed), 5.0)
    assert not quality.is_nothing(quality.weight(MAP, summed=summed), 5.0)


def test_ink_is_full_from_a_share_of_the_spread_on_and_proportional_below():
    assert quality.faintness(3.0, 6.0, summed=True) == 1
    assert quality.faintness(3.0, 60.0, summed=True) == pytest.approx(10)
    assert quality.faintness(1.5, 300.0, summed=False) == 1
    assert quality.faintness(1.5, 3000.0, summed=False) == pytest.approx(10)
