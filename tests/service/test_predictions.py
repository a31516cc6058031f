"""Logits become calibrated probabilities."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from service.errors import InvalidParameter
from service.predictions import PredictionOptions, check_top_k, find_class, predict
from service.runtime.engine import OutputRow

LOGITS = np.array([1, 4, 2, 4, 0, 0, 0, 0, 0, -1], np.float32)


def test_the_top_is_sorted_and_ties_keep_the_order_of_the_labels(embedded):
    found = predict(
        OutputRow(LOGITS),
        replace(embedded.manifest, temperature=1.0, entropy_power=0.0),
        PredictionOptions(top_k=3),
    )
    assert [entry.index for entry in found.top] == [1, 3, 2]
    assert found.best.label == embedded.manifest.labels[1]
    assert found.best.probability == pytest.approx(softmax(LOGITS)[1])


@pytest.mark.parametrize("top_k", [0, -1, 11, 99])
def test_a_top_k_out_of_range_is_refused(top_k, embedded):
    with pytest.raises(
        InvalidParameter, match=f"top_k is {top_k}; the model has 10 classes: ask for 1 to 10"
    ):
        check_top_k(top_k, embedded.manifest)


def test_a_class_is_found_by_label_and_by_number(embedded):
    assert find_class("cat", embedded.manifest) == find_class("3", embedded.manifest) == 3


@pytest.mark.parametrize("target", ["unicorn", "10", "-1", "", "³"])
def test_an_unknown_class_is_refused_with_what_there_is(target, embedded):
    with pytest.raises(InvalidParameter, match=r"airplane.*or an index from 0 to 9"):
        find_class(target, embedded.manifest)
