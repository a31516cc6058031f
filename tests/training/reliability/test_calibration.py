"""The fitted calibration is the likeliest one, and no more complex than the images justify."""

import numpy as np
import pytest

from service.bundle.calibration import Calibration
from training.reliability.calibration import fit_calibration, negative_log_likelihood


def drawn(calibration, rows=4000, classes=5, seed=0):
    """Logits, and labels drawn with the probabilities that `calibration` makes of them."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(rows, classes)) * rng.uniform(1, 8, (rows, 1))).astype(np.float32)
    return logits, np.array(
        [rng.choice(classes, p=shares) for shares in calibration.probabilities(logits)]
    )


def test_a_plain_temperature_is_found_again():
    logits, labels = drawn(Calibration(3.0))
    fitted = fit_calibration(logits, labels)
    assert fitted.entropy_power == 0
    assert fitted.temperature == pytest.approx(3, rel=0.05)


def test_a_temperature_that_follows_the_entropy_is_found_again():
    logits, labels = drawn(Calibration(1.5, 0.3))
    fitted = fit_calibration(logits, labels)
    assert fitted.entropy_power == pytest.approx(0.3, abs=0.05)
    assert fitted.temperature == pytest.approx(1.5, rel=0.1)


def test_factors_of_classes_are_found_again_where_there_are_some():
    factors = (0.5, 0.8, 1.0, 1.25, 2.0)
    logits, labels = drawn(Calibration(3.0, class_temperatures=factors), rows=8000)
    fitted = fit_calibration(logits, labels)
    assert fitted.class_temperatures == pytest.approx(factors, rel=0.25)
    assert np.prod(fitted.class_temperatures) == pytest.approx(1, abs=0.01)


def test_chance_brings_no_factors_of_classes():
    kept = 0
    for seed in range(20):
        logits, labels = drawn(Calibration(3.0), rows=300, seed=seed)
        kept += bool(fit_calibration(logits, labels).class_temperatures)
    assert kept <= 1, "at 1 %, 0.2 of 20 on average"


@pytest.mark.parametrize("known", [Calibration(3.0), Calibration(1.5, 0.3)])
def test_no_calibration_beside_the_fitted_one_is_likelier(known):
    logits, labels = drawn(known)
    fitted = fit_calibration(logits, labels)
    least = negative_log_likelihood(logits, labels, fitted)
    assert all(
        negative_log_likelihood(
            logits, labels, Calibration(fitted.temperature * f, fitted.entropy_power)
        )
        >= least
        for f in (0.9, 1.1)
    )


def test_a_few_images_get_the_plain_temperature():
    logits, labels = drawn(Calibration(1.5, 0.3), rows=60)
    assert fit_calibration(logits, labels).entropy_power == 0


def test_the_negative_log_likelihood_is_the_mean_of_minus_log_p():
    logits = np.log(np.tile([0.8, 0.2], (10, 1))).astype(np.float32)
    labels = np.array([0] * 8 + [1] * 2)
    assert negative_log_likelihood(logits, labels, Calibration()) == pytest.approx(
        -0.8 * np.log(0.8) - 0.2 * np.log(0.2), rel=1e-6
    )
