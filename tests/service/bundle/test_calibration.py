"""Logits → calibrated probabilities."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from service.bundle.calibration import Calibration
from service.predictions import predict
from service.runtime.graphs import OutputRow

LOGITS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32) * 3


def test_the_temperature_divides_the_logits():
    assert np.allclose(
        Calibration(2.0).probabilities(LOGITS), softmax(LOGITS.astype(np.float64) / 2, axis=1)
    )


def test_the_temperature_follows_the_entropy_as_scipy_has_it():
    share = entropy(softmax(LOGITS.astype(np.float64), axis=1), axis=1) / np.log(10)
    assert np.allclose(Calibration(0.7, 0.2).temperatures(LOGITS)[:, 0], 0.7 * share**0.2)


def test_the_even_image_has_the_temperature_itself_and_the_surer_ones_less():
    rows = np.stack([np.zeros(10), np.eye(10)[0], 5 * np.eye(10)[0]]).astype(np.float32)
    found = Calibration(0.7, 0.2).temperatures(rows)[:, 0]
    assert found[0] == pytest.approx(0.7)
    assert found[0] > found[1] > found[2] > 0


@pytest.mark.parametrize("power", [0.0, 0.2, 1.0])
def test_no_decision_changes(power):
    found = Calibration(0.5, power).probabilities(LOGITS)
    assert np.array_equal(np.argsort(found, axis=1), np.argsort(LOGITS, axis=1))
    assert np.allclose(found.sum(1), 1)


@pytest.mark.parametrize("power", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_do_not_overflow(size, power):
    found = Calibration(0.5, power).probabilities(np.array([size, 0], np.float32))
    assert found.tolist() == [1.0, 0.0]


def test_a_prediction_tells_what_divided_its_logits(embedded):
    manifest = replace(embedded.manifest, temperature=0.7, entropy_power=0.2)
    found = predict(OutputRow(LOGITS[0]), manifest)
    assert found.temperature == pytest.approx(
        float(Calibration(0.7, 0.2).temperatures(LOGITS[0])[0])
    )
    assert found.best.probability == pytest.approx(
        softmax(LOGITS[0].astype(np.float64) / found.temperature).max()
    )
