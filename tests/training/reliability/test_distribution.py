"""Held-out answers are kept in bins that chance hardly moves, for any values and any classes."""

import numpy as np
import pytest

from service.telemetry.drift import counts
from training.reliability.distribution import IMAGES_A_BIN, MOST_BINS, fit_distribution


def fitted(count=5000, classes=10, confidence=None):
    rng = np.random.default_rng(0)
    values = rng.beta(5, 1, count) if confidence is None else confidence
    return fit_distribution(
        values, rng.normal(size=count), rng.integers(0, classes, count), classes
    )


def test_bins_hold_about_as_many_images_each():
    distribution = fitted()
    assert distribution.pictures == 5000
    for bins in (distribution.confidence, distribution.familiarity):
        assert len(bins.shares) == MOST_BINS
        assert np.allclose(bins.shares, 0.1, atol=0.001)


def test_few_classes_have_a_bin_each():
    rng = np.random.default_rng(0)
    predicted = rng.choice(3, 1000, p=[0.7, 0.3, 0.0])
    distribution = fit_distribution(
        rng.uniform(size=1000), rng.uniform(size=1000), predicted, 3
    ).classes
    assert distribution.edges == (0.5, 1.5)
    assert distribution.shares == pytest.approx(
        (np.bincount(predicted, minlength=3) / 1000).tolist()
    )


def test_of_many_classes_neighbours_share_a_bin():
    distribution = fitted(classes=1000).classes
    assert len(distribution.shares) == MOST_BINS
    assert np.allclose(distribution.shares, 0.1, atol=0.01)
    assert counts(np.arange(1000.0), distribution.edges).tolist() == pytest.approx(
        [100] * MOST_BINS, abs=10
    )


def test_equal_confidences_share_a_bin():
    sure = np.concatenate([np.full(4000, 1.0), np.linspace(0.5, 0.9, 1000)])
    distribution = fitted(confidence=sure).confidence
    assert distribution.edges[-1] == 1.0
    assert distribution.shares[-1] == 0.8
    assert fitted(confidence=np.ones(5000)).confidence.shares == (0.0, 1.0)


@pytest.mark.parametrize(("count", "bins"), [(2 * IMAGES_A_BIN, 2), (150, 6), (20_000, MOST_BINS)])
def test_fewer_images_make_fewer_bins(count, bins):
    assert len(fitted(count).familiarity.shares) == bins


def test_too_few_images_have_no_distribution():
    assert fitted(2 * IMAGES_A_BIN - 1) is None
