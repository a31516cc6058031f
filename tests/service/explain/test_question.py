"""Questions are checked, and each cheaper one costs less than the one before."""

from dataclasses import replace

import pytest

from service.bundle import folder as contract
from service.errors import InvalidParameter, MethodUnavailable
from service.explain import (
    METHODS,
    ask,
    available,
    cheaper_questions,
    check_passes,
    forward_passes,
)
from service.settings import Settings
from support.methods import OF_CNNS

MOST_IMAGES = 64  # of a request
COSTLY = ("steps", "samples", "segments")


def cheaper(manifest, method, quality="basic", **given):
    return [
        (q.method.name, q.quality, dict(q.parameters))
        for q in cheaper_questions(ask(manifest, method, None, given, quality), manifest)
    ]


def test_integrated_gradients_fall_by_halves_to_four_steps_and_then_to_grad_cam(embedded):
    first, *others, last = cheaper(embedded.manifest, "integrated_gradients", baseline="blur")
    asked = {"steps": 128, "tolerance": 0.05, "baseline": "blur"}
    assert first == ("integrated_gradients", "basic", asked)
    assert others == [
        ("integrated_gradients", "basic", {**asked, "steps": few})
        for few in (8, 4)  # 16 are expected
    ]
    assert last == ("grad_cam", "basic", {"layer": "last"})


def test_samples_fall_to_a_quarter_and_no_further(embedded):
    samples = [given.get("samples") for *_, given in cheaper(embedded.manifest, "gradient_shap")]
    assert samples == [64, 32, 16, None]


def test_a_bundle_without_a_class_activation_map_falls_to_input_x_gradient(embedded):
    files = {
        name: digest for name, digest in embedded.manifest.files.items() if name != contract.CAM
    }
    names = [name for name, *_ in cheaper(replace(embedded.manifest, files=files), "saliency")]
    assert names == ["saliency"]  # which costs the same
    *_, last = cheaper(replace(embedded.manifest, files=files), "gradient_shap")
    assert last == ("input_x_gradient", "basic", {})


def test_full_measures_are_dropped_first(embedded):
    assert [quality for _, quality, _ in cheaper(embedded.manifest, "grad_cam", "full")] == [
        "full",
        "basic",
    ]


def test_nothing_is_cheaper_than_grad_cam(embedded):
    assert cheaper(embedded.manifest, "grad_cam") == [("grad_cam", "basic", {"layer": "last"})]


@pytest.mark.parametrize("method", OF_CNNS)
@pytest.mark.parametrize("quality", ["basic", "full"])
def test_every_question_is_cheaper_than_the_one_before(method, quality, embedded):
    costs = [
        forward_passes(question)
        for question in cheaper_questions(
            ask(embedded.manifest, method, None, {}, quality), embedded.manifest
        )
    ]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)


@pytest.mark.parametrize(
    ("method", "target", "given", "message"),
    [
        ("deep_magic", None, {}, "method is 'deep_magic'; the methods are saliency"),
        ("saliency", "unicorn", {}, "target is 'unicorn'; name a label"),
        (
            "integrated_gradients",
            None,
            {"steps": "0"},
            "steps is '0'; give a whole number from 1 to 512",
        ),
        (
            "integrated_gradients",
            None,
            {"steps": 10**9},
            "steps is 1000000000; give a whole number from 1 to 512",
        ),
        ("integrated_gradients", None, {"steps": "1.5"}, "steps is '1.5'; give a whole number"),
        ("integrated_gradients", None, {"steps": 1.5}, "steps is 1.5; give a whole number"),
        ("integrated_gradients", None, {"steps": True}, "steps is True; give a whole number"),
        ("integrated_gradients", None, {"steps": None}, "steps is None"),
        (
            "integrated_gradients",
            None,
            {"baseline": "grey"},
            "baseline is 'grey'; it is one of mean, black, white, blur",
        ),
        ("integrated_gradients", None, {"baseline": ["mean"]}, "it is one of mean"),
        ("smooth_grad", None, {"noise": "nan"}, "noise is 'nan'; give a number from 0 to 1"),
        ("smooth_grad", None, {"noise": "inf"}, "noise is 'inf'"),
        ("smooth_grad", None, {"seed": -1}, "seed is -1; give a whole number from 0 to 4294967295"),
        ("saliency", None, {"steps": 3}, "saliency has no parameter 'steps'; its parameters: none"),
    ],
)
def test_a_bad_question_is_rejected_with_the_remedy(method, target, given, message, embedded):
    with pytest.raises(InvalidParameter) as rejected:
        ask(embedded.manifest, method, target, given)
    assert message in str(rejected.value)


def test_a_huge_value_is_not_repeated_whole(embedded):
    with pytest.raises(InvalidParameter) as rejected:
        ask(embedded.manifest, "integrated_gradients", None, {"steps": "9" * 4000})
    assert len(str(rejected.value)) < 200
    for method, target in (
        ("m" * 10**6, None),
        ("saliency", "t" * 10**6),
        ("saliency", "a," + "b" * 10**6),
    ):
        with pytest.raises(InvalidParameter) as rejected:
            ask(embedded.manifest, method, target, {})
        assert len(str(rejected.value)) < 600


def test_a_method_without_its_graph_is_rejected_with_those_that_work(embedded):
    manifest = replace(
        embedded.manifest,
        files={name: d for name, d in embedded.manifest.files.items() if name != contract.CAM},
    )
    assert "grad_cam" not in [method.name for method in available(manifest)]
    with pytest.raises(
        MethodUnavailable,
        match=r"grad_cam needs cam\.onnx, and this model has none; "
        r"it can be explained by: saliency",
    ):
        ask(manifest, "grad_cam", None, {})


def test_text_and_numbers_mean_the_same(embedded):
    assert ask(embedded.manifest, "smooth_grad", None, {"samples": "8", "noise": "0.5"}) == ask(
        embedded.manifest, "smooth_grad", None, {"samples": 8, "noise": 0.5}
    )


@pytest.mark.parametrize("target", ["cat,cat", "cat,unicorn", ",", "cat,dog,frog"])
def test_a_contrast_of_unknown_or_equal_classes_is_rejected(target, embedded):
    with pytest.raises(InvalidParameter, match="target is"):
        ask(embedded.manifest, "saliency", target, {})


@pytest.mark.parametrize("method", OF_CNNS)
def test_the_default_limit_holds_the_largest_batch_and_every_question(method, embedded):
    limit = Settings().max_passes
    check_passes(ask(embedded.manifest, method, None, {}), MOST_IMAGES, limit)
    dearest = {p.name: p.high for p in METHODS[method].parameters if p.name in COSTLY}
    if "stride" in {p.name for p in METHODS[method].parameters}:
        dearest |= {"stride": 0.05, "window": 0.05}
    question = ask(embedded.manifest, method, None, dearest, "full")
    check_passes(question, 1, limit)
    if forward_passes(question) * MOST_IMAGES > limit:
        with pytest.raises(InvalidParameter, match="the limit is 140,000 a request: ask for fewer"):
            check_passes(question, MOST_IMAGES, limit)


def test_all_steps_are_charged_and_those_of_the_tolerance_expected(embedded):
    asked = ask(embedded.manifest, "integrated_gradients", None, {})
    every = ask(embedded.manifest, "integrated_gradients", None, {"tolerance": 0})
    assert asked.most_passes == every.most_passes == forward_passes(every)
    assert forward_passes(asked) < forward_passes(every) / 4
