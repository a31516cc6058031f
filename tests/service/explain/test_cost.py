"""What explanations cost, and what is asked instead when time is short."""

import pytest

from service.explain import METHODS, ask, cheaper_questions, forward_passes


def rungs(manifest, method, quality="basic", **given):
    return [
        (q.method.name, q.quality, dict(q.parameters))
        for q in cheaper_questions(ask(manifest, method, None, given, quality), manifest)
    ]


def test_integrated_gradients_fall_to_a_quarter_of_the_steps_and_then_to_grad_cam(embedded):
    found = rungs(embedded.manifest, "integrated_gradients", baseline="blur")
    assert found == [
        ("integrated_gradients", "basic", {"steps": 32, "baseline": "blur", "max_steps": 128}),
        ("integrated_gradients", "basic", {"steps": 8, "baseline": "blur", "max_steps": 8}),
        ("grad_cam", "basic", {}),
    ]


def test_full_measures_go_first(embedded):
    assert [quality for _, quality, _ in rungs(embedded.manifest, "grad_cam", "full")] == [
        "full",
        "basic",
    ]


def test_nothing_is_cheaper_than_grad_cam(embedded):
    assert rungs(embedded.manifest, "grad_cam") == [("grad_cam", "basic", {})]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("quality", ["basic", "full"])
def test_every_rung_is_cheaper_than_the_one_before(method, quality, embedded):
    costs = [
        forward_passes(rung)
        for rung in cheaper_questions(
            ask(embedded.manifest, method, None, {}, quality), embedded.manifest
        )
    ]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)
