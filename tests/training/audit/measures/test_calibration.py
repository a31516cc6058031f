"""The calibration error is the gap between confidence and accuracy."""

import numpy as np
import pytest

from service.bundle.calibration import Calibration
from training.audit.measures.calibration import calibration, calibration_error


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    shares = np.tile([0.8, 0.2], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert calibration_error(shares, labels) == pytest.approx(0.0)
    assert calibration_error(shares, np.zeros(10, np.int64)) == pytest.approx(0.2)


def test_a_temperature_that_is_right_lowers_error_and_log_loss():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)).astype(np.float32)
    labels = np.array([rng.choice(3, p=p) for p in Calibration().probabilities(logits)])
    figures = calibration(3 * logits, labels, Calibration(3.0))
    assert figures["ece"] < 0.02 < figures["ece_before"]
    assert figures["log_loss"] < figures["log_loss_before"]
    assert sum(entry["pictures"] for entry in figures["reliability"]) == 4000
