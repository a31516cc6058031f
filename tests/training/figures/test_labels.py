"""Exchanged labels lead the list of suspects."""

import numpy as np
from scipy.special import softmax

from training.figures.labels import label_issues


def test_exchanged_labels_are_the_first_suspects():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    shares = softmax(6 * np.eye(3)[truth] + rng.normal(size=(300, 3)) / 2, axis=1)
    given = truth.copy()
    given[:5] = (truth[:5] + 1) % 3
    suspects = label_issues(shares, given, np.arange(300).astype(np.str_), "abc")
    assert {int(entry["name"]) for entry in suspects[:5]} == set(range(5))
