"""A policy decides which predictions an explanation comes along with."""

from dataclasses import replace

import numpy as np
import pytest

from service.errors import InvalidParameter, SettingsError
from service.explain.policy import ON_REQUEST, Policy, of_setting
from service.predictions import Class, Familiarity, Prediction, PredictionSet


def prediction(members=1, score=0.9):
    found = PredictionSet(("a",) * members, 0.95, False, np.arange(members))
    top = (Class("a", 0, 0.9),)
    return Prediction(top, np.zeros(3, np.float32), 1.0, found, Familiarity(score, 0.5))


@pytest.mark.parametrize(
    ("text", "given", "reason"),
    [
        ("always", {}, "always"),
        ("unsure", {}, None),
        ("unsure", {"members": 2}, "unsure"),
        ("unsure", {"members": 0}, "unsure"),
        ("unfamiliar", {}, None),
        ("unfamiliar", {"score": 0.1}, "unfamiliar"),
        ("unsure,unfamiliar", {"score": 0.1}, "unfamiliar"),
        ("unsure, unfamiliar", {"members": 2, "score": 0.1}, "unsure"),
        ("sampled:0.25", {}, "sampled"),
        ("sampled:0.2", {}, None),
        ("unsure,sampled:1", {}, "sampled"),
        ("unsure,unfamiliar,sampled:1", {"members": 2, "score": 0.1}, "sampled"),
        ("unsure,sampled:0.2", {"members": 2}, "unsure"),
        ("sampled:0", {}, None),
    ],
)
def test_a_policy_gives_the_reason(text, given, reason):
    assert Policy.parse(text).reason(prediction(**given), lambda: 0.2) == reason


def test_so_many_are_drawn():
    drawn = [Policy.parse("sampled:0.1").reason(prediction()) for _ in range(2_000)]
    assert 120 <= drawn.count("sampled") <= 290  # six standard deviations


def test_a_request_without_a_condition_has_a_reason_of_its_own():
    assert ON_REQUEST.reason(prediction()) == "asked"
    assert Policy.parse("none") is None


@pytest.mark.parametrize(
    "text", ["", "sometimes", "sampled", "sampled:2", "sampled:nan", "always:1", "none,always"]
)
def test_what_is_no_policy_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller words it
        Policy.parse(text)


def test_a_policy_needs_what_it_chooses_by(embedded):
    bare = replace(embedded.manifest, prediction_sets=None, familiarity=None)
    for text in ("unsure", "unfamiliar"):
        Policy.parse(text).check(embedded.manifest)
        with pytest.raises(InvalidParameter, match="explain always, or a sample"):
            Policy.parse(text).check(bare)
        with pytest.raises(SettingsError, match=f"CANDOR_EXPLAIN is {text}"):
            of_setting(text, bare)
    assert of_setting("none", bare) is None


def test_a_policy_needs_a_cheap_method(embedded):
    files = {
        name: entry for name, entry in embedded.manifest.files.items() if name == "predict.onnx"
    }
    with pytest.raises(SettingsError, match="cannot be explained at once"):
        of_setting("always", replace(embedded.manifest, files=files))
