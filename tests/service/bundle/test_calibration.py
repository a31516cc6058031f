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


def test_the_temperature_follows_the_entropy_that_scipy_computes():
    share = entropy(softmax(LOGITS.astype(np.float64), axis=1), axis=1) / np.log(10)
    assert np.allclose(Calibration(0.7, 0.2).temperatures(LOGITS)[:, 0], 0.7 * share**0.2)


def test_surer_images_have_lower_temperatures():
    rows = np.stack([np.zeros(10), np.eye(10)[0], 5 * np.eye(10)[0]]).astype(np.float32)
    result = Calibration(0.7, 0.2).temperatures(rows)[:, 0]
    assert result[0] == pytest.approx(0.7)
    assert result[0] > result[1] > result[2] > 0


def test_the_factor_of_a_class_counts_as_far_as_the_network_sees_the_class():
    factors = tuple(np.linspace(0.5, 2, 10).tolist())
    seen = softmax(LOGITS.astype(np.float64), axis=1)
    expected = 0.7 * np.prod(np.array(factors) ** seen, axis=1)
    found = Calibration(0.7, class_temperatures=factors).temperatures(LOGITS)[:, 0]
    assert np.allclose(found, expected)


@pytest.mark.parametrize("factors", [(), (0.8, 1.25) * 5])
@pytest.mark.parametrize("power", [0.0, 0.2, 1.0])
def test_no_decision_changes(power, factors):
    result = Calibration(0.5, power, class_temperatures=factors).probabilities(LOGITS)
    assert np.array_equal(np.argsort(result, axis=1), np.argsort(LOGITS, axis=1))
    assert np.allclose(result.sum(1), 1)


@pytest.mark.parametrize("power", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_do_not_overflow(size, power):
    result = Calibration(0.5, power).probabilities(np.array([size, 0], np.float32))
    assert result.tolist() == [1.0, 0.0]


def test_a_prediction_names_the_temperature_of_its_logits(embedded):
    plain = replace(embedded.manifest, class_temperatures=())
    manifest = replace(plain, temperature=0.7, entropy_power=0.2)
    result = predict(OutputRow(LOGITS[0]), manifest)
    assert result.temperature == pytest.approx(
        float(Calibration(0.7, 0.2).temperatures(LOGITS[0])[0])
    )
    assert result.best.probability == pytest.approx(
        softmax(LOGITS[0].astype(np.float64) / result.temperature).max()
    )
