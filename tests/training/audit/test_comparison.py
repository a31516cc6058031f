"""Two models on the same images are compared image by image."""

import numpy as np
import pytest
from scipy.stats import binomtest

from training.audit.comparison import Answers, paired, sentences


def answers(correct):
    shares = np.where(correct, 0.9, 0.1)
    return Answers(np.stack([shares, 1 - shares], axis=1), correct)


@pytest.fixture(scope="module")
def models():
    """Two models that fail on nearly the same images of the class 0: one alone on 5, one on 25."""
    first = np.ones(1000, bool)
    first[:100] = False
    second = first.copy()
    second[100:125], second[:5] = False, True
    return answers(first), answers(second)


def test_the_pairs_decide_where_separate_intervals_overlap(models):
    found = paired(*models, np.zeros(1000, np.int64), seed=0)
    assert (found["this_only"], found["other_only"]) == (25, 5)
    assert found["p_value"] == binomtest(25, 30).pvalue < 0.001
    low, high = found["differences"]["accuracy"]["interval"]
    assert 0 < low < 0.02 < high < 0.04, "0.90 and 0.88 of 1,000 have intervals that overlap"
    assert found["differences"]["log_loss"]["interval"][1] < 0


def test_one_model_beside_itself_differs_by_nothing(models):
    found = paired(models[0], models[0], np.zeros(1000, np.int64), seed=0)
    assert found["p_value"] == 1.0
    assert found["differences"]["brier"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_the_sentence_has_both_counts(models):
    pairs = paired(*models, np.zeros(1000, np.int64), seed=0)
    said = sentences({"paired": pairs, "with": {"name": "other"}})
    assert "accuracy +0.0200" in said
    assert "It alone is right on 25, the other alone on 5 (McNemar" in said
