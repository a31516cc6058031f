"""A model is better than guessing if its accuracy surely exceeds the share of the largest class."""

import numpy as np
import pytest

from training.figures.accuracy import accuracy
from training.figures.guessing import guessing


def figures(correct, of=(60, 30, 10)):
    """Figures of answers of which `correct` are right, and the others the next class."""
    labels = np.repeat(np.arange(len(of)), of)
    predicted = np.where(np.arange(len(labels)) < correct, labels, (labels + 1) % len(of))
    return accuracy(predicted, labels, "abc", seed=0)


@pytest.mark.parametrize("correct", [0, 33, 60, 69])
def test_an_accuracy_near_the_share_of_the_largest_class_is_guessing(correct):
    assert guessing(figures(correct)) == (
        f"no better than guessing: accuracy {correct / 100:.3f} "
        f"({_low_high(correct)}) on 100 test images, and always answering a would have 0.600"
    )


def test_an_accuracy_surely_above_it_is_not():
    assert guessing(figures(70)) is None
    assert guessing(figures(12, of=(10, 10, 10))) is not None
    assert guessing(figures(18, of=(10, 10, 10))) is None


def test_a_report_of_an_earlier_release_is_not_judged():
    assert guessing({"accuracy": 0.1, "macro avg": {"f1-score": 0.1}}) is None


def _low_high(correct):
    low, high = figures(correct)["accuracy_interval"]
    return f"{low:.3f}–{high:.3f}"
