"""F1 is scikit-learn's, absent classes do not count, and confusions are ranked."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.figures.accuracy import (
    MOST_CLASSES,
    Confusion,
    accuracy,
    class_figures,
    class_intervals,
    confusions,
    macro_f1,
)


def test_macro_f1_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    assert macro_f1(predicted, truth, 5) == pytest.approx(
        f1_score(truth, predicted, average="macro")
    )


def test_the_intervals_of_a_class_hold_its_figures():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    predicted = np.where(rng.uniform(size=400) < 0.8, truth, rng.integers(0, 3, 400))
    figures = class_figures(accuracy(predicted, truth, "abc", seed=0))
    for name, ends in class_intervals(predicted, truth, "abc", seed=0).items():
        for figure, (low, high) in ends.items():
            assert low < figures[name][figure] < high
            assert high - low < 0.2


def test_a_class_that_a_sample_lacks_does_not_lower_its_macro_f1():
    labels = np.array([0, 0, 2])
    assert macro_f1(labels, labels, 4) == 1.0


def test_the_figures_hold_their_intervals_and_every_class():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    predicted = labels.copy()
    predicted[:6], predicted[60:66], predicted[90:93] = 1, 0, 1
    figures = accuracy(predicted, labels, "abc", seed=0)
    assert figures["accuracy"] == 0.85
    low, high = figures["macro_f1_interval"]
    assert low < figures["macro_f1"] < high
    assert list(class_figures(figures)) == ["a", "b", "c"]
    assert figures["confusion"] == [[54, 6, 0], [6, 24, 0], [0, 3, 7]]
    assert list(confusions(predicted, labels, "abc", most=2)) == [
        Confusion("b", "a", 6, 30),
        Confusion("a", "b", 6, 60),
    ], "of equal counts the smaller class comes first"
    assert list(confusions(labels, labels, "abc", most=2)) == []


def test_of_very_many_classes_there_is_no_matrix():
    count = MOST_CLASSES + 1
    labels = np.arange(count)
    predicted = labels.copy()
    predicted[0] = 1
    names = [f"class {number}" for number in labels]
    figures = accuracy(predicted, labels, names, seed=0)
    assert figures["confusion"] == []
    assert len(class_figures(figures)) == count
    assert list(confusions(predicted, labels, names, 5)) == [Confusion(names[0], names[1], 1, 1)]
