"""Log loss and Brier score need no bins; a calibration error has that of perfection beside it."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from service.bundle.calibration import Calibration
from training.audit.measures.calibration import (
    bins,
    brier_scores,
    calibration,
    calibration_error,
    log_losses,
)

CLASSES = ("a", "b", "c")


def drawn(rows, seed=0):
    """Logits, and labels drawn with their softmax."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, 3)).astype(np.float32)
    shares = Calibration().probabilities(logits)
    return logits, (shares.cumsum(1) > rng.uniform(size=(rows, 1))).argmax(1)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    shares = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert calibration_error(shares, labels) == pytest.approx(0.0)
    assert calibration_error(shares, np.zeros(10, np.int64)) == pytest.approx(0.2)


def test_bins_hold_equally_many_images_and_equal_values_together():
    rng = np.random.default_rng(0)
    assert set(np.bincount(bins(rng.uniform(size=1500)))) == {100}
    tied = np.repeat([0.5, 0.9], [1000, 500])
    assert np.bincount(bins(tied)).tolist() in ([1000, 500], [0, 1000, 500])
    assert set(bins(rng.uniform(size=29))) == {0}, "few images have one bin"


def test_log_loss_and_brier_score_are_those_of_scikit_learn():
    logits, labels = drawn(500)
    shares = Calibration().probabilities(logits)
    assert log_losses(shares, labels).mean() == pytest.approx(log_loss(labels, shares))
    theirs = brier_score_loss(labels, shares, scale_by_half=False, labels=[0, 1, 2])
    assert brier_scores(shares, labels).mean() == pytest.approx(theirs)


def test_a_temperature_that_is_right_lowers_error_and_log_loss():
    logits, labels = drawn(4000)
    figures = calibration(3 * logits, labels, Calibration(3.0), CLASSES, seed=0)
    assert figures["ece"] < 0.02 < figures["ece_before"]
    for name in ("log_loss", "brier"):
        low, high = figures[f"{name}_interval"]
        assert low < figures[name] < high < figures[f"{name}_before"]
    assert sum(entry["pictures"] for entry in figures["reliability"]) == 4000


def test_a_perfect_model_shows_about_the_error_that_is_told_of_one():
    found, told = [], []
    for seed in range(12):
        figures = calibration(*drawn(1500, seed), Calibration(), CLASSES, seed=0)
        found.append(figures["ece"])
        told.append((figures["ece_perfect"]["mean"], figures["ece_perfect"]["high"]))
    mean, high = np.mean(told, axis=0)
    assert np.mean(found) == pytest.approx(mean, rel=0.25)
    assert max(found) < 1.3 * high
    assert mean > 0.01, "which a reader must know: the error is never 0"


def test_an_answer_that_is_too_sure_is_seen_although_all_together_are_not():
    labels = np.repeat([0, 1], [1000, 1000])
    predicted = labels.copy()
    predicted[:300], predicted[1000:1100] = 1, 0  # "b" is right 0.75 of the time, "a" 0.875
    shares = np.where(np.eye(2)[predicted], 0.8, 0.2)
    logits = np.log(shares).astype(np.float32)
    figures = calibration(logits, labels, Calibration(), ("a", "b"), seed=0)
    first, second = figures["by_answer"]
    assert (first["label"], second["label"]) == ("a", "b")
    assert figures["ece"] == pytest.approx(0, abs=1e-6)
    assert first["accuracy_interval"][0] > 0.8 > second["accuracy_interval"][1]
