"""Samples in rounds: the agreement that is told is the one that another seed would have."""

import numpy as np
import pytest

from service.errors import DeadlineExceeded
from service.explain.maps.sampling import GOOD_AGREEMENT, agreement, cosine, until_agreed

TRUTH = np.random.default_rng(0).normal(size=400)


def mean_of(count, rng, noise):
    """The mean of so many noisy samples of TRUTH."""
    return TRUTH + noise / np.sqrt(count) * rng.normal(size=TRUTH.shape)


@pytest.mark.parametrize("noise", [0.5, 2.0, 8.0, 30.0])
@pytest.mark.parametrize("map_of", [np.asarray, np.abs])
def test_halves_tell_the_cosine_of_two_seeds(noise, map_of):
    told, true = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        first, second = (mean_of(8, rng, noise) for _ in range(2))
        told.append(agreement(first, second, map_of))
        true.append(cosine(*(map_of(mean_of(16, rng, noise)) for _ in range(2))))
    assert np.median(told) == pytest.approx(np.median(true), abs=0.05)


def test_a_map_of_zeros_agrees_with_nothing():
    assert agreement(np.zeros(9), np.zeros(9)) == 0


class Sums:
    """Evidence that counts its samples."""

    def __init__(self, total, samples):
        self.total, self.samples = total, samples

    def __add__(self, other):
        return Sums(self.total + other.total, self.samples + other.samples)


def sampled(most, noise=20.0, time=10**6, end=10**6):
    """Samples from 8 on; at the sample `end` the deadline is over."""
    rng, drawn = np.random.default_rng(0), []

    def draw(first, count):
        if first + count > end:
            raise DeadlineExceeded("it is over")
        drawn.append((first, count))
        a, b = (Sums(count / 2 * mean_of(count / 2, rng, noise), count / 2) for _ in range(2))
        return a, b

    found = until_agreed(
        draw, lambda sums: sums.total / sums.samples, 8, most, lambda count: count <= time
    )
    assert found.evidence.samples == found.samples
    return found, drawn


def test_samples_are_doubled_until_their_halves_agree():
    found, drawn = sampled(most=10**6)
    assert found.agreement >= GOOD_AGREEMENT
    assert drawn[:3] == [(0, 8), (8, 8), (16, 16)]
    assert found.measures == {"agreement": found.agreement, "samples": found.samples}


@pytest.mark.parametrize(
    "limit", [{"most": 40}, {"most": 999, "time": 16}, {"most": 999, "end": 32}]
)
def test_doubling_ends_at_the_limit_or_with_the_time(limit):
    found, _ = sampled(**limit)
    assert found.samples == 32
    assert found.agreement < GOOD_AGREEMENT


def test_a_map_of_zeros_is_not_sampled_on():
    drawn = []

    def draw(first, count):
        drawn.append((first, count))
        return Sums(np.zeros(9), count / 2), Sums(np.zeros(9), count / 2)

    found = until_agreed(draw, lambda sums: sums.total, 8, 10**6, lambda _: True)
    assert drawn == [(0, 8)]
    assert found.agreement == 0
