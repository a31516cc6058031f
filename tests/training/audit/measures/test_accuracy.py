"""F1 is scikit-learn's, and intervals are as wide as theory predicts."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from training.audit.measures.accuracy import interval, macro_f1


def test_macro_f1_equals_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, 400), rng.integers(0, 5, 400)
    assert macro_f1(predicted, truth, 5) == pytest.approx(
        f1_score(truth, predicted, average="macro")
    )


def test_an_interval_of_a_share_is_as_wide_as_theory_predicts():
    correct = np.arange(1000) % 10 > 0
    low, high = interval(lambda rows: correct[rows].mean(), 1000, seed=0)
    assert low < 0.9 < high
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.09 / 1000), rel=0.15)
