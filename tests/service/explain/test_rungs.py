"""Each rung is cheaper than the one before, and keeps so many samples for each unknown."""

import numpy as np
import pytest

from service.explain import METHODS, ask, fitting_defaults, forward_passes
from service.explain.rungs import FEWEST_COALITIONS, SAMPLES_A_CELL
from support.methods import OF_CNNS

MASK = np.arange(64).reshape(8, 8) // 2  # of 32 segments


def rungs(method, **given):
    parameters = {p.name: p.default for p in METHODS[method].parameters} | given
    while (parameters := METHODS[method].fewer(parameters)) is not None:
        yield parameters


@pytest.mark.parametrize("method", OF_CNNS)
def test_every_rung_costs_less_than_the_one_before(method):
    dear = {p.name: p.high for p in METHODS[method].parameters if p.name in ("samples", "steps")}
    costs = [METHODS[method].passes(each) for each in rungs(method, **dear)]
    assert costs == sorted(set(costs), reverse=True)


@pytest.mark.parametrize("method", ["lime", "kernel_shap"])
def test_with_fewer_samples_a_regression_has_fewer_unknowns(method):
    found = [(each["samples"], each["segments"] ** 2) for each in rungs(method)]
    assert found[-1][0] == FEWEST_COALITIONS
    assert all(SAMPLES_A_CELL * cells <= samples for samples, cells in found)


def test_the_segments_of_a_mask_stay_and_so_do_twice_as_many_samples():
    found = list(rungs("kernel_shap", segments=MASK, samples=512))
    assert [each["samples"] for each in found] == [256, 128, 64]
    assert all(each["segments"] is MASK for each in found)
    assert list(rungs("feature_ablation", segments=MASK)) == []


def test_windows_first_touch_and_then_grow():
    found = [
        (each["window"], each["stride"]) for each in rungs("occlusion", window=0.1, stride=0.05)
    ]
    assert found == [(0.1, 0.1), (0.2, 0.2), (0.375, 0.375)]


def test_defaults_are_those_of_the_method_where_they_fit(embedded):
    found = fitting_defaults(embedded.manifest, lambda _: 0.0, 6.0)
    for method, parameters in found.items():
        assert parameters == ask(embedded.manifest, method, None, {}).parameters


def test_defaults_of_a_dear_pass_fit_the_seconds(embedded):
    def seconds(question):
        return 0.05 * forward_passes(question)

    found = fitting_defaults(embedded.manifest, seconds, 6.0)
    for method, parameters in found.items():
        question = ask(embedded.manifest, method, None, {}, defaults=found)
        assert question.parameters == parameters
        assert seconds(question) <= 6.0
    few = {"segments": 4, "samples": 64, "max_samples": 64}
    assert found["kernel_shap"] == {**few, "segmentation": "grid", "baseline": "mean", "seed": 0}
    given = ask(embedded.manifest, "kernel_shap", None, {"samples": 900}, defaults=found)
    assert given.parameters["samples"] == 900
