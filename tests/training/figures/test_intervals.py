"""Intervals are as wide as theory predicts, and hold a share as often as they promise."""

import numpy as np
import pytest

from training.figures.intervals import bootstrap, wilson


def test_an_interval_of_a_share_is_as_wide_as_theory_predicts():
    correct = np.arange(1000) % 10 > 0
    for low, high in (
        bootstrap(lambda rows: correct[rows].mean(), 1000, seed=0),
        wilson(int(correct.sum()), 1000),
    ):
        assert low < 0.9 < high
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.09 / 1000), rel=0.15)


def test_the_interval_of_a_share_holds_it_in_95_of_100_cases():
    hits = np.random.default_rng(0).binomial(30, 0.9, 1000)
    held = [low <= 0.9 <= high for low, high in (wilson(int(count), 30) for count in hits)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


def test_no_images_say_nothing_about_a_share():
    assert wilson(0, 0) == [0.0, 1.0]
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
