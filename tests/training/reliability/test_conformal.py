"""Prediction sets hold the true class as often as promised."""

import warnings

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from training.reliability.conformal import (
    COVERAGES,
    LEAST_SETS,
    count_sets,
    expected_rank,
    fit_sets,
    members,
    sure_rank,
    threshold,
)

CLASSES = 5


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose features are its probabilities."""

    def __init__(self):
        self.classes_ = np.arange(CLASSES)

    def fit(self, _x, _y):
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(1)


def drawn(rows, seed):
    """Calibrated by construction: each label is drawn from the probabilities beside it."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(CLASSES, 0.3), rows)
    labels = (probabilities.cumsum(1) > rng.uniform(size=(rows, 1))).argmax(1)
    return probabilities, labels


def covered(probabilities, labels, thresholds):
    own = probabilities[np.arange(len(labels)), labels]
    return own >= np.asarray(thresholds)[labels]


def test_the_rank_is_that_of_split_conformal_prediction():
    assert expected_rank(99, 0.95) == 95
    assert expected_rank(19, 0.95) == 19
    own = np.arange(1, 20) / 20
    assert threshold(own, 0.95, expected_rank) == own[0], "the 19th largest of 19"
    assert threshold(own, 0.99, expected_rank) == 0.0, "19 images cannot promise 99 %"


@pytest.mark.parametrize("coverage", COVERAGES)
def test_a_marginal_set_covers_as_promised_on_average(coverage):
    shares = []
    for seed in range(40):
        sets = fit_sets(*drawn(500, seed))
        probabilities, labels = drawn(2000, 1000 + seed)
        shares.append(covered(probabilities, labels, [sets.marginal[coverage]] * CLASSES).mean())
    assert np.mean(shares) == pytest.approx(float(coverage), abs=0.006)


def test_each_class_is_covered_as_promised_nine_times_in_ten():
    kept = []
    for seed in range(40):
        sets = fit_sets(*drawn(1000, seed))
        probabilities, labels = drawn(20_000, 1000 + seed)
        inside = covered(probabilities, labels, sets.by_class["0.95"])
        kept += [inside[labels == label].mean() >= 0.95 for label in range(CLASSES)]
    assert 0.84 <= np.mean(kept) <= 0.97


def test_a_sure_rank_is_above_the_expected_one_and_near_it_for_many_images():
    assert sure_rank(10, 0.95) == 11, "ten images cannot promise 95 % of anything"
    for count in (50, 500, 5000):
        assert expected_rank(count, 0.95) < sure_rank(count, 0.95) <= count
    assert sure_rank(100_000, 0.95) / 100_000 == pytest.approx(0.95, abs=0.002)


def test_marginal_sets_equal_those_of_mapie():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mapie warns about scikit-learn
        from mapie.classification import SplitConformalClassifier

        theirs = SplitConformalClassifier(
            Given(), [float(coverage) for coverage in COVERAGES], "lac", prefit=True
        )
        theirs.conformalize(*drawn(777, 0))
        probabilities, _ = drawn(300, 1)
        _, expected = theirs.predict_set(probabilities)
    sets = fit_sets(*drawn(777, 0))
    for number, coverage in enumerate(COVERAGES):
        assert np.array_equal(probabilities >= sets.marginal[coverage], expected[:, :, number])


def test_every_set_is_counted_by_its_size_and_once():
    probabilities, labels = drawn(3000, 0)
    sets = count_sets(fit_sets(probabilities, labels), probabilities, labels)
    for coverage in COVERAGES:
        counted = [each for each in sets.by_size[coverage]["marginal"] if each.label is None]
        assert sum(each.sets for each in counted) == 3000
        assert sum(each.held for each in counted) >= float(coverage) * 3000
        assert all(each.sets >= LEAST_SETS for each in counted)
        assert counted[-1].most is None, "a larger set may come"
    assert [each.least for each in counted] == [1, *(each.most + 1 for each in counted[:-1])]


def test_the_share_of_sets_like_it_holds_for_other_images():
    probabilities, labels = drawn(3000, 0)
    sets = count_sets(fit_sets(probabilities, labels), probabilities, labels)
    fresh, truth = drawn(20_000, 1)
    inside = members(fresh, sets.thresholds("0.95", by_class=False))
    held, sizes = inside[np.arange(len(truth)), truth], inside.sum(1)
    for each in sets.by_size["0.95"]["marginal"]:
        rows = (sizes >= each.least) & (sizes <= (each.most or CLASSES))
        if each.label is not None:
            rows &= inside.argmax(1) == each.label
        low, high = each.interval
        assert low - 0.02 <= held[rows].mean() <= high + 0.02


def test_few_images_are_not_counted():
    probabilities, labels = drawn(LEAST_SETS - 1, 0)
    assert not count_sets(fit_sets(probabilities, labels), probabilities, labels).by_size
