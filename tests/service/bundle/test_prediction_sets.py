"""A set is compared with held-out sets like it: of the class alone, else of its size."""

import pytest
from scipy.stats import binomtest

from service.bundle.prediction_sets import Counted, PredictionSets

COUNTED = (
    Counted(1, 1, 400, 380),
    Counted(2, 3, 60, 50),
    Counted(4, None, 40, 30),
    Counted(1, 1, 90, 70, label=2),
)
DOCUMENT = {
    "pictures": 500,
    "marginal": {"0.95": 0.1},
    "by_class": {"0.95": [0.1, 0.2, 0.3]},
    "by_size": {
        "0.95": {
            "marginal": [
                {"least": 1, "most": 1, "sets": 400, "held": 380},
                {"least": 2, "most": 3, "sets": 60, "held": 50},
                {"least": 4, "sets": 40, "held": 30},
                {"least": 1, "most": 1, "sets": 90, "held": 70, "label": 2},
            ]
        }
    },
}


@pytest.fixture(scope="module")
def sets():
    return PredictionSets.parse(**DOCUMENT)


def test_counts_survive_and_their_absence_leaves_no_trace(sets):
    assert sets.by_size["0.95"]["marginal"] == COUNTED
    plain = {name: value for name, value in DOCUMENT.items() if name != "by_size"}
    assert PredictionSets.parse(**sets.document()) == sets
    assert set(PredictionSets.parse(**plain).document()) == set(plain)


@pytest.mark.parametrize(
    ("size", "first", "place"), [(1, 0, 0), (1, 2, 3), (2, 2, 1), (3, 0, 1), (4, 0, 2), (10, 1, 2)]
)
def test_the_class_alone_comes_first_and_the_last_size_is_open(size, first, place, sets):
    assert sets.like(size, first, "0.95", by_class=False) == COUNTED[place]


def test_sets_of_a_kind_or_coverage_that_was_not_counted_have_no_counts(sets):
    assert sets.like(1, 0, "0.95", by_class=True) is None
    assert sets.like(1, 0, "0.90", by_class=False) is None


@pytest.mark.parametrize(("held", "count"), [(0, 30), (29, 30), (30, 30), (895, 1000)])
def test_the_interval_is_wilsons(held, count):
    theirs = binomtest(held, count).proportion_ci(method="wilson")
    low, high = Counted(1, 1, count, held).interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert low <= held / count <= high


@pytest.mark.parametrize("entry", [{"sets": 3, "held": 4}, {"sets": 0, "held": 0}])
def test_counts_that_contradict_each_other_are_rejected(entry):
    by_size = {"0.95": {"marginal": [{"least": 1, **entry}]}}
    with pytest.raises(ValueError, match="by_size has"):
        PredictionSets.parse(**{**DOCUMENT, "by_size": by_size})
