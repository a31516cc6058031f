"""Sentences say what the numbers say."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service import open_model, words
from service.bundle.prediction_sets import Counted
from service.explain import METHODS, Attribution, ask, faithfulness
from service.explain.maps.target import Target
from service.predictions import Class, Familiarity, Prediction, PredictionSet

PAGE = Path(words.__file__).parent / "web" / "quality.js"
# { completeness_gap: gap }) { … toneOf(gap, 0.05, 0.2)
JUDGED = r"\{ (\w+): (\w+) \}\) \{\n.*toneOf\((?:1 - )?\2, ([\d.]+), ([\d.]+)\)"


@pytest.fixture(scope="module")
def manifest():
    return open_model("cifar10").manifest


def attribution(manifest, values, **quality):
    question = ask(manifest, "grad_cam", None, {})
    return Attribution(question, Target(3), np.asarray(values, np.float32), quality)


def prediction(*top, labels=("cat", "dog"), familiar=True):
    classes = tuple(Class(label, index, share) for index, (label, share) in enumerate(top))
    found = PredictionSet(labels, "0.95", False, np.arange(len(labels)))
    return Prediction(classes, np.zeros(3, np.float32), 1, found, Familiarity(float(familiar), 0.5))


def test_classes_have_their_shares():
    words_of = words.classes(prediction(("cat", 0.874), ("dog", 0.12), ("eel", 0.001)))
    assert words_of == "cat, 87 %; then dog 12 %, eel under 1 %"


def test_classes_that_stand_for_themselves_are_listed_if_they_are_likely():
    answer = prediction(("sea", 0.97), ("ship", 0.64), ("cat", 0.1))
    assert words.classes(answer._replace(likely=answer.top[:2])) == (
        "each for itself: sea 97 %, ship 64 %"
    )
    assert words.classes(answer._replace(likely=())).startswith("none of the classes is likely")


def test_an_unfamiliar_image_is_warned_of_first():
    assert words.trust(prediction(("cat", 0.9), familiar=False)).startswith("unlike the images")
    assert words.trust(prediction(("cat", 0.9))).startswith("prediction set: cat, dog; of all sets")


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (None, "of all sets 95 % hold the right class"),
        (Counted(1, 1, 361, 320, label=3), ", of those that are only cat at least 84 %"),
        (Counted(1, 1, 4291, 4116), ", of those of one class at least 95 %"),
        (Counted(2, 2, 570, 512), ", of those of 2 classes at least 87 %"),
        (Counted(2, 4, 570, 512), ", of those of 2 to 4 classes at least 87 %"),
        (Counted(3, None, 139, 124), ", of those of 3 or more classes at least 82 %"),
    ],
)
def test_a_set_says_what_held_out_sets_like_it_were_worth(counted, said):
    answer = prediction(("cat", 0.9))
    found = answer.prediction_set._replace(counted=counted)
    assert words.trust(answer._replace(prediction_set=found)).endswith(said)


def test_a_promise_by_class_is_said_to_be_one_of_each_class():
    answer = prediction(("cat", 0.9))
    found = answer.prediction_set._replace(by_class=True, counted=Counted(2, 2, 570, 512))
    assert words.trust(answer._replace(prediction_set=found)).endswith(
        "each class, by itself, is in it for 95 % of the images that have the class"
    )


def test_a_large_set_names_five_classes_and_counts_the_rest():
    assert "a, b, c, d, e and 2 more;" in words.trust(prediction(("a", 0.3), labels=(*"abcdefg",)))


def test_without_held_out_images_it_says_so():
    answer = prediction(("cat", 0.9))._replace(prediction_set=None, familiarity=None)
    assert words.trust(answer).startswith("no images were held out")


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [
        (0, 0, "at the top left"),
        (4, 4, "in the middle"),
        (4, 8, "at the right"),
        (8, 4, "at the bottom"),
    ],
)
def test_the_place_is_the_ninth_that_holds_most(manifest, row, column, place):
    values = np.zeros((9, 9))
    values[row, column] = 4
    values[2, 2] = -9  # speaks against
    assert f"lies on 1 % of what the network saw, mostly {place}" in words.place(
        attribution(manifest, values), manifest
    )


def test_half_of_an_even_map_lies_on_half_of_the_image(manifest):
    even = attribution(manifest, np.ones((10, 10)))
    assert "half of what speaks for cat lies on 50 %" in words.place(even, manifest)


def test_a_map_without_anything_for_the_class_is_said(manifest):
    nothing = attribution(manifest, -np.ones((4, 4)))
    assert words.place(nothing, manifest) == "Grad-CAM finds nothing that speaks for cat"


@pytest.mark.parametrize(
    ("measures", "sentence"),
    [
        ({"completeness_gap": 0.01}, "it adds up (gap 1 %)"),
        ({"completeness_gap": 0.1}, "it nearly adds up (gap 10 %)"),
        ({"completeness_gap": 0.3}, "it does not add up (gap 30 %)"),
        ({"class_cosine": 0.2}, "the map of the next class differs (cosine 0.20)"),
        ({"class_cosine": 0.95}, "the map of the next class is nearly the same (cosine 0.95)"),
        ({}, "no measure of this map"),
    ],
)
def test_quality_is_judged_by_its_limits(manifest, measures, sentence):
    assert words.quality(attribution(manifest, np.ones((4, 4)), **measures)) == sentence


def test_the_page_judges_by_the_same_limits():
    judged = re.findall(JUDGED, PAGE.read_text())
    page = {measure: (float(good), float(fair)) for measure, _, good, fair in judged}
    good, fair = words.LIMITS["class_cosine"]
    assert f": toneOf(cosine, {good}, {fair})," in PAGE.read_text()
    assert set(words.LIMITS) <= set(words.MEASURES)
    others = {measure: limits for measure, limits in words.LIMITS.items() if measure in page}
    assert len(others) == len(words.LIMITS) - 1
    assert {measure: page[measure] for measure in others} == others


def test_the_page_judges_by_the_same_rules():
    page = PAGE.read_text()
    rectified = [name for name, method in METHODS.items() if method.is_rectified]
    for line in (
        f"const RECTIFIED = {json.dumps(rectified)};",
        f"const REST = {words.REST};",
        f"const SPREAD = {faithfulness.SPREAD:g}, ROUNDING = 1e-6;",
        f"const OPPONENTS = {json.dumps(list(faithfulness.OPPONENTS))};",
    ):
        assert line in page
    assert faithfulness.ROUNDING == 1e-6


AREAS = {
    f"{side}{name}": value
    for side in ("deletion", "insertion")
    for name, value in {
        "_random": 0.6,
        "_random_sd": 0.05,
        "_blob": 0.44 if side == "deletion" else 0.7,
        "_edges": 0.47 if side == "deletion" else 0.65,
    }.items()
}


def test_a_map_that_beats_its_opponents_is_said_to_and_another_names_the_winner(manifest):
    found = attribution(manifest, np.ones((4, 4)), **AREAS, deletion=0.39, insertion=0.68)
    deleted, inserted = words.quality(found).split("; ")
    assert deleted == (
        "deleting its strongest parts first lowers the probability faster (39 %) "
        "than random orders (60 % ± 5 %), a centred blob (44 %), the edges of the image (47 %)"
    )
    assert inserted == (
        "inserting its strongest parts first raises the probability no faster (68 %) "
        "than a centred blob (70 %)"
    )


def test_areas_of_logits_are_said_to_be_of_logits(manifest):
    found = attribution(manifest, np.ones((4, 4)), **AREAS, deletion=-1.25, insertion=2.3)
    said = words.quality(replace(found, areas_unit="difference of logits"))
    assert "lowers the difference of logits faster (-1.25) than random orders (0.60 ± 0.05)" in said
    assert "%" not in said


@pytest.mark.parametrize(
    ("method", "unrelated", "cosine", "said"),
    [
        (
            "layer_cam",
            0.85,
            0.83,
            "is no more like it than maps of unrelated images (cosine 0.83, theirs up to 0.85)",
        ),
        ("layer_cam", 0.85, 0.93, "is similar (cosine 0.93; of unrelated images up to 0.85)"),
        ("layer_cam", 0.85, 0.98, "is nearly the same"),
        ("grad_cam", 0.3, 0.4, "is similar (cosine 0.40"),
        ("grad_cam", None, 0.4, "differs (cosine 0.40)"),
        ("layer_cam", None, 0.93, "maps without a sign are alike whatever the class"),
        ("saliency", None, 0.2, "maps without a sign are alike whatever the class"),
    ],
)
def test_the_cosine_of_classes_is_judged_beside_that_of_unrelated_maps(
    method, unrelated, cosine, said, manifest
):
    beside = {} if unrelated is None else {"class_cosine_unrelated": unrelated}
    question = ask(manifest, method, None, {})
    found = Attribution(
        question, Target(3), np.ones((4, 4), np.float32), {"class_cosine": cosine} | beside
    )
    assert said in words.quality(found)


@pytest.mark.parametrize(("labels", "listed"), [(("sea", "ship"), "sea, ship"), ((), "no class")])
def test_the_set_of_a_multi_label_model_holds_each_class_for_itself(labels, listed):
    answer = prediction(("sea", 0.97), ("ship", 0.4), labels=labels)
    found = answer.prediction_set._replace(by_class=True)
    assert words.trust(answer._replace(likely=answer.top[:1], prediction_set=found)) == (
        f"prediction set: {listed}; "
        "each class, by itself, is in it for 95 % of the images that have the class"
    )
