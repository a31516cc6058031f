"""The area under the curve is one half for a guess; a class left out is a stranger."""

import numpy as np
import pytest

from service.runtime.engine import Engine
from training.audit.measures.familiarity import auroc, auroc_interval, left_out


def test_the_area_of_a_guess_is_one_half():
    rng = np.random.default_rng(0)
    assert auroc(rng.normal(size=2000), rng.normal(size=2000)) == pytest.approx(0.5, abs=0.03)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1.0


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_interval_of_the_area_holds_the_truth_as_often_as_it_says(shift):
    rng, held = np.random.default_rng(1), 0
    truth = auroc(rng.normal(shift, 1, 200_000), rng.normal(0, 1, 200_000))
    for _ in range(300):
        low, high = auroc_interval(rng.normal(shift, 1, 80), rng.normal(0, 1, 40))
        held += low <= truth <= high
    assert 0.91 <= held / 300 <= 0.98


def test_tied_scores_count_half_in_the_interval_too():
    tied = np.array([0.0, 1.0] * 20)
    low, high = auroc_interval(tied, tied)
    assert (low + high) / 2 == pytest.approx(0.5)


def test_a_class_that_the_reference_lacks_is_less_familiar(bundle, dataset):
    outputs = Engine(bundle, "cpu").predict(dataset.test.pixels)
    found = left_out(bundle, outputs, dataset.test.labels)["left_out"]
    assert list(found) == list(bundle.manifest.labels)
    assert all(entry["auroc"] > 0.9 for entry in found.values()), "they differ by colour"
    assert all(entry["pictures"] == 10 for entry in found.values())
