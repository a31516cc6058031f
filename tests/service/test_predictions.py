"""Logits become calibrated probabilities, prediction sets and familiarity."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logsumexp, softmax

from service.api import responses
from service.api.kserve import outputs
from service.bundle.manifest import Familiarity, Platt
from service.bundle.prediction_sets import PredictionSets
from service.errors import InvalidParameter
from service.explain.maps.target import find_target, ranking
from service.predictions import (
    MOST_TOP_K,
    SET_LABELS,
    SORTED_CLASSES,
    Calibrated,
    PredictionOptions,
    check_coverage,
    check_nearest,
    check_top_k,
    energy,
    find_class,
    find_classes,
    most_probable,
    predict,
    prediction_of,
)
from service.runtime.graphs import OutputRow
from service.schedule.sent import Sent

LOGITS = np.array([1, 4, 2, 4, 0, 0, 0, 0, 0, -1], np.float32)
PROBABILITIES = [0.5, 0.25, 0.125, 0.125, *[0.0] * 6]  # exact in binary
LABELS = [f"class {index}" for index in range(10)]


@pytest.fixture
def manifest(embedded):
    """Ten classes in order, without sets, familiarity or calibration."""
    return replace(
        embedded.manifest,
        labels=tuple(LABELS),
        temperature=1.0,
        entropy_power=0.0,
        class_temperatures=(),
        prediction_sets=None,
        familiarity=None,
    )


def with_sets(manifest, marginal=0.9, by_class=(0.9,) * 10):
    return replace(
        manifest, prediction_sets=PredictionSets(100, {"0.95": marginal}, {"0.95": by_class})
    )


def calibrated(similarity=None):
    """An image with PROBABILITIES, and reference images of that `similarity` if it is given."""
    row = OutputRow(LOGITS)
    if similarity is not None:
        row = OutputRow(LOGITS, np.array(similarity, np.float32), np.arange(7, 7 + len(similarity)))
    return Calibrated(row, 1.0, np.array(PROBABILITIES))


def set_of(manifest, **options):
    return prediction_of(calibrated(), manifest, PredictionOptions(**options)).prediction_set


def test_the_top_is_sorted_and_ties_keep_the_order_of_the_labels(manifest):
    prediction = predict(OutputRow(LOGITS), manifest, PredictionOptions(top_k=3))
    assert [entry.index for entry in prediction.top] == [1, 3, 2]
    assert prediction.best.label == "class 1"
    assert prediction.best.probability == pytest.approx(softmax(LOGITS)[1])


def test_a_bundle_without_figures_gives_neither_a_set_nor_familiarity(manifest):
    prediction = predict(OutputRow(LOGITS), manifest)
    assert prediction.prediction_set is None
    assert prediction.familiarity is None


@pytest.mark.parametrize(
    ("threshold", "members"),
    [
        (0.25, [0, 1]),  # a probability at the threshold is in the set
        (np.nextafter(0.25, 1), [0]),
        (0.125, [0, 1, 2, 3]),
    ],
)
def test_a_set_holds_the_classes_that_reach_the_threshold(threshold, members, manifest):
    found = set_of(with_sets(manifest, marginal=float(threshold)))
    assert found.labels == tuple(LABELS[index] for index in members)
    assert (found.coverage, found.by_class) == (0.95, False)


def test_a_set_by_class_holds_the_classes_that_reach_their_own_thresholds(manifest):
    thresholds = (0.6, 0.25, float(np.nextafter(0.125, 1)), 0.125, *[0.5] * 6)
    found = set_of(with_sets(manifest, by_class=thresholds), by_class=True)
    assert found.labels == ("class 1", "class 3")
    assert found.by_class


@pytest.mark.parametrize("by_class", [False, True])
def test_a_set_without_a_class_that_reaches_the_threshold_has_the_most_probable_one(
    by_class, manifest
):
    assert set_of(with_sets(manifest), by_class=by_class).labels == ("class 0",)


@pytest.mark.parametrize(("score", "familiar"), [(0.5, True), (0.4999, False)])
def test_a_score_at_the_threshold_is_familiar(score, familiar, manifest):
    known = replace(manifest, familiarity=Familiarity("neighbours", 0.5, 100, 2, 50))
    found = prediction_of(calibrated([0.75, score]), known, PredictionOptions()).familiarity
    assert (found.score, found.threshold) == (pytest.approx(score), 0.5)
    assert found.familiar is familiar


def test_familiarity_is_the_similarity_of_the_last_of_the_nearest_reference_images(manifest):
    known = replace(manifest, familiarity=Familiarity("neighbours", 0.5, 100, 3, 50))
    found = prediction_of(calibrated([0.9, 0.7, 0.4]), known, PredictionOptions()).familiarity
    assert found.score == pytest.approx(0.4)
    assert not found.familiar


def test_familiarity_without_reference_images_is_the_energy(manifest):
    known = replace(manifest, familiarity=Familiarity("energy", 5.0, 100))
    found = prediction_of(calibrated(), known, PredictionOptions()).familiarity
    assert found.score == pytest.approx(logsumexp(LOGITS.astype(np.float64)))


def test_the_energy_of_large_logits_does_not_overflow():
    assert energy(np.array([1000.0, 1000.0], np.float32)) == pytest.approx(1000 + np.log(2))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_of_the_nearest_are_given_as_were_requested(count, manifest):
    row = calibrated([0.75, 0.5, 0.25])
    found = prediction_of(row, manifest, PredictionOptions(nearest=count)).nearest
    assert found == ((7, 0.75), (8, 0.5), (9, 0.25))[:count]


def test_a_model_without_reference_images_has_no_nearest(manifest):
    assert prediction_of(calibrated(), manifest, PredictionOptions(nearest=3)).nearest == ()


@pytest.mark.parametrize("top_k", [1, 10])
def test_every_number_of_classes_can_be_requested(top_k, manifest):
    assert check_top_k(top_k, manifest) == top_k


@pytest.mark.parametrize("top_k", [0, -1, 11, 99])
def test_a_top_k_out_of_range_is_rejected(top_k, manifest):
    with pytest.raises(
        InvalidParameter, match=f"top_k is {top_k}; the model has 10 classes: ask for 1 to 10"
    ):
        check_top_k(top_k, manifest)


def test_a_coverage_is_known_by_its_value(manifest):
    assert check_coverage("0.950", with_sets(manifest)) == "0.95"
    for unknown in ("0.9", "high"):
        with pytest.raises(InvalidParameter, match=r"it is one of 0\.95"):
            check_coverage(unknown, with_sets(manifest))
    with pytest.raises(InvalidParameter, match="no prediction sets: leave it out"):
        check_coverage("0.95", manifest)


def test_a_number_of_nearest_is_limited_by_the_model(manifest):
    known = replace(manifest, familiarity=Familiarity("neighbours", 0.5, 100, 3, 50))
    assert [check_nearest(count, known) for count in (0, 3)] == [0, 3]
    for count in (-1, 4):
        with pytest.raises(InvalidParameter, match=f"nearest is {count}; give 0 to 3"):
            check_nearest(count, known)
    assert check_nearest(0, manifest) == 0
    with pytest.raises(InvalidParameter, match="no reference images: leave it out"):
        check_nearest(1, manifest)


def test_a_class_is_found_by_label_and_by_number(manifest):
    assert find_class("class 3", manifest) == find_class("3", manifest) == 3


def test_classes_are_found_by_labels_and_numbers(manifest):
    assert find_classes("class 3, 5,class 0", manifest) == (3, 5, 0)
    commas = replace(manifest, labels=("cat, or kitten", *LABELS[1:]))
    assert find_classes("cat, or kitten", commas) == (0,)
    with pytest.raises(InvalidParameter, match="classes is 'unicorn'; name a label"):
        find_classes("class 3,unicorn", manifest)


def test_a_label_of_several_classes_is_rejected_with_their_numbers(manifest):
    cranes = replace(manifest, labels=("crane", *LABELS[1:9], "crane"))
    assert find_class("9", cranes) == 9
    with pytest.raises(
        InvalidParameter, match=r"target is 'crane', the label of 2 classes: .* such as 0, 9"
    ):
        find_class("crane", cranes)
    assert [cranes.name_of(index) for index in (0, 1, 9)] == ["crane (0)", "class 1", "crane (9)"]


@pytest.mark.parametrize("classes", [10, SORTED_CLASSES + 1, 21_841])
@pytest.mark.parametrize("distinct", [3, 1000])
def test_the_most_probable_of_many_classes_are_those_of_a_stable_sort(classes, distinct):
    rng = np.random.default_rng(classes)
    probabilities = rng.integers(0, distinct, classes) / distinct
    expected = np.argsort(-probabilities, kind="stable")
    for count in (1, 5, 10):
        assert most_probable(probabilities, count).tolist() == expected[:count].tolist()


def test_a_network_that_overflows_gets_an_answer(manifest):
    many = replace(manifest, labels=tuple(f"class {index}" for index in range(5000)))
    prediction = predict(OutputRow(np.full(5000, np.nan, np.float32)), many)
    assert [entry.index for entry in prediction.top] == [0, 1, 2]


def test_a_large_set_lists_its_most_probable_labels_and_holds_all(manifest):
    count = 5000
    many = replace(manifest, labels=tuple(f"class {index}" for index in range(count)))
    many = with_sets(many, marginal=1e-9, by_class=(1e-9,) * count)
    logits = np.random.default_rng(0).normal(size=count).astype(np.float32)
    order = np.argsort(-logits, kind="stable")
    for options, listed in ((PredictionOptions(), SET_LABELS), (PredictionOptions(300), 300)):
        found = predict(OutputRow(logits), many, options).prediction_set
        assert found.indices.tolist() == order.tolist()
        assert found.labels == tuple(many.labels[index] for index in order[:listed])


def test_named_classes_are_answered_in_their_order(manifest):
    options = PredictionOptions(top_k=1, classes=(9, 0, 9))
    found = predict(OutputRow(LOGITS), manifest, options).classes
    assert [entry.index for entry in found] == [9, 0, 9]
    assert [entry.probability for entry in found] == pytest.approx(softmax(LOGITS)[[9, 0, 9]])


def test_a_top_k_of_a_large_model_is_limited(manifest):
    many = replace(manifest, labels=tuple(f"class {index}" for index in range(5000)))
    assert check_top_k(MOST_TOP_K, many) == MOST_TOP_K
    with pytest.raises(InvalidParameter, match="has 5,000 classes: ask for 1 to 1,000, or for"):
        check_top_k(MOST_TOP_K + 1, many)


def test_a_label_wins_over_the_number_of_another_class(manifest):
    digits = replace(manifest, labels=tuple("9876543210"))
    assert find_class("3", digits) == 6


@pytest.mark.parametrize("target", ["unicorn", "10", "-1", "", "³"])
def test_an_unknown_class_is_rejected_with_the_known_ones(target, manifest):
    with pytest.raises(
        InvalidParameter, match=r"name a label \(class 0, .* or an index from 0 to 9"
    ):
        find_class(target, manifest)


def test_a_message_shows_some_labels_of_a_large_model(manifest):
    many = replace(manifest, labels=tuple(f"class {index}" for index in range(1000)))
    with pytest.raises(InvalidParameter, match=r"class 19, …\) or an index from 0 to 999") as error:
        find_class("unicorn", many)
    assert "class 20" not in str(error.value)


def multi_label(manifest):
    """The ten classes, each for itself."""
    return replace(manifest, head="sigmoid", distribution=None)


def test_classes_that_do_not_exclude_each_other_have_probabilities_of_their_own(manifest):
    prediction = predict(OutputRow(LOGITS), multi_label(manifest), PredictionOptions(top_k=2))
    assert [entry.index for entry in prediction.top] == [1, 3]
    assert prediction.best.probability == pytest.approx(expit(4.0))
    assert [entry.index for entry in prediction.likely] == [1, 3, 2, 0, 4, 5, 6, 7, 8]
    assert prediction.likely[-1].probability == 0.5
    assert predict(OutputRow(LOGITS), manifest).likely is None


def test_an_image_may_have_none_of_the_classes(manifest):
    prediction = predict(OutputRow(np.full(10, -1000, np.float32)), multi_label(manifest))
    assert prediction.likely == ()
    assert prediction.best.probability == 0.0


def test_an_answer_lists_the_likely_classes_of_a_multi_label_model_alone(manifest):
    sent = Sent(None, 8, 9, "PNG", None)
    answers = [
        responses.prediction(predict(OutputRow(LOGITS[:10] - 2), each), sent)
        for each in (multi_label(manifest), manifest)
    ]
    assert [entry["label"] for entry in answers[0]["likely"]] == ["class 1", "class 3", "class 2"]
    assert "likely" not in answers[1]
    assert [("likely" in outputs.names(each)) for each in (multi_label(manifest), manifest)] == [
        True,
        False,
    ]


def each_calibrated(manifest, threshold=0.7):
    """The ten classes with a scale and a bias each, and sets of one threshold."""
    by_class = {"0.95": (threshold,) * 10}
    return replace(
        multi_label(manifest),
        platt=Platt(40, (0.5,) * 9 + (2.0,), (0.0,) * 9 + (5.0,)),
        prediction_sets=PredictionSets(40, {}, by_class),
    )


def test_each_class_has_its_own_scale_and_bias(manifest):
    own = each_calibrated(manifest)
    prediction = predict(OutputRow(LOGITS), own)
    assert prediction.temperature == 1.0
    every = {entry.index: entry.probability for entry in prediction.likely}
    assert every[1] == pytest.approx(expit(0.5 * 4.0))
    assert prediction.best.index == 9
    assert prediction.best.probability == pytest.approx(expit(2 * LOGITS[9] + 5))
    # The explained class is the one that the answer names, not the one with the largest logit.
    assert ranking(LOGITS, own).argmax() == 9
    assert ranking(LOGITS, manifest).argmax() == LOGITS.argmax()


def test_a_set_of_a_multi_label_model_has_each_class_for_itself_or_none(manifest):
    found = predict(OutputRow(LOGITS), each_calibrated(manifest)).prediction_set
    assert found.by_class
    assert found.indices.tolist() == [9, 1, 3, 2]
    nothing = predict(OutputRow(LOGITS), each_calibrated(manifest, 1.0)).prediction_set
    assert nothing.labels == ()
    assert check_coverage("0.95", each_calibrated(manifest)) == "0.95"


def test_a_class_of_a_multi_label_model_is_not_explained_against_another(manifest):
    assert find_target("class 1", multi_label(manifest)).index == 1
    assert find_target("class 1,class 2", manifest).against == 2
    with pytest.raises(InvalidParameter, match="an image may have both: name one class"):
        find_target("class 1,class 2", multi_label(manifest))
