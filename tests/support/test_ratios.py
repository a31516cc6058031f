"""A loss counts beyond what the old server differs from itself by, in either direction."""

import numpy as np
import pytest

from support.ratios import Ratio, Verdict, compare

ROUNDS = 8


def noisy(middle, spread, seed):
    return middle * np.exp(np.random.default_rng(seed).normal(0, spread, ROUNDS))


def judged(new, spread=0.01, *, more_is_better=True, seed=0):
    rounds = (noisy(middle, spread, 3 * seed + n) for n, middle in enumerate((new, 100, 100)))
    return compare(*rounds, more_is_better=more_is_better, least_margin=0.03)


def test_the_interval_of_equal_rounds_is_a_point():
    ratio = Ratio.of([1.25] * ROUNDS)
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.25, 1.25, 1.25))
    assert ratio.farthest == pytest.approx(0.25)
    assert Ratio.of([0.8] * ROUNDS).farthest == pytest.approx(0.25)


def test_the_interval_lies_around_the_median_and_leaves_out_one_bad_round():
    ratio = Ratio.of([0.99, 1.0, 1.0, 1.01, 1.0, 0.99, 1.01, 5.0])
    assert ratio.median == pytest.approx(1.0)
    assert 0.98 < ratio.low <= ratio.median <= ratio.high < 1.02


@pytest.mark.parametrize(
    ("new", "more_is_better", "verdict"),
    [
        (85, True, Verdict.WORSE),
        (115, True, Verdict.BETTER),
        (115, False, Verdict.WORSE),
        (85, False, Verdict.BETTER),
        (101, True, Verdict.SAME),
        (101, False, Verdict.SAME),
    ],
)
def test_a_change_beyond_the_margin_is_a_loss_or_a_gain(new, more_is_better, verdict):
    assert judged(new, more_is_better=more_is_better).verdict == verdict


def test_a_machine_that_differs_from_itself_as_much_hides_the_same_loss():
    quiet, crowded = judged(85), judged(85, spread=0.4)
    assert quiet.verdict == Verdict.WORSE
    assert quiet.margin < 0.1
    assert crowded.margin > 0.3
    assert crowded.verdict == Verdict.SAME


def test_the_same_tree_seldom_fails():
    verdicts = [judged(100, spread=0.08, seed=seed).verdict for seed in range(200)]
    assert verdicts.count(Verdict.WORSE) <= 4
