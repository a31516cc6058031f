"""Questions are checked; answers are what the definitions say."""

from dataclasses import replace

import numpy as np
import pytest

from service.bundle import folder as contract
from service.errors import InvalidParameter, MethodUnavailable
from service.explain import METHODS, ask, available, explain, gradients
from service.explain.baselines import rows_of
from support.images import draw

PIXELS = draw("blue")


def answer(engine, method, target="3", **given):
    return explain(
        engine,
        PIXELS,
        ask(engine.manifest, method, target, given),
        engine.predict(PIXELS[None]).logits[0],
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_finite_map_of_the_input_size(method, engine):
    found = answer(engine, method)
    assert found.map.shape == (32, 32)
    assert found.map.dtype == np.float32
    assert np.isfinite(found.map).all()
    assert np.abs(found.map).max() > 0
    assert found.target.index == 3
    assert METHODS[method].sign == "signed" or found.map.min() >= 0


@pytest.mark.parametrize("method", METHODS)
def test_the_same_question_gets_the_same_bytes(method, engine):
    assert answer(engine, method).map.tobytes() == answer(engine, method).map.tobytes()


def test_another_seed_gives_another_map(engine):
    assert not np.array_equal(
        answer(engine, "smooth_grad", seed=1).map, answer(engine, "smooth_grad", seed=2).map
    )


def test_without_a_target_the_predicted_class_is_explained(engine):
    question = ask(engine.manifest, "saliency", None, {})
    logits = np.eye(10, dtype=np.float32)[7]
    assert explain(engine, PIXELS, question, logits).target.index == 7


@pytest.mark.parametrize("baseline", ["mean", "black", "white", "blur"])
def test_integrated_gradients_sum_to_the_difference_of_the_logits(baseline, engine):
    found = answer(engine, "integrated_gradients", steps=128, baseline=baseline)
    batch = PIXELS[None]
    start = rows_of(engine, batch, baseline)
    logits = engine.gradient(
        np.concatenate([engine.normalise(batch), start]), np.array([3, 3])
    ).logits[:, 3]
    assert float(found.map.sum()) == pytest.approx(float(logits[0] - logits[1]), rel=0.05, abs=0.02)
    gap = abs(float(found.map.sum()) - float(logits[0] - logits[1])) / abs(
        float(logits[0] - logits[1])
    )
    assert found.quality["completeness_gap"] == pytest.approx(gap, abs=1e-3)


def test_smooth_grad_without_noise_is_saliency(engine):
    quiet, plain = (
        answer(engine, "smooth_grad", noise=0.0, samples=3).map,
        answer(engine, "saliency").map,
    )
    assert np.abs(quiet - plain).max() <= 1e-5 * plain.max()


def test_more_rows_than_a_piece_are_all_explained(engine):
    batch = np.stack([draw(seed=seed) for seed in range(3)])
    target = np.array([1, 2, 3])
    together = gradients.integrated_gradients(engine, batch, target, 9, "mean").attribution
    alone = np.concatenate(
        [
            gradients.integrated_gradients(
                engine, batch[i : i + 1], target[i : i + 1], 9, "mean"
            ).attribution
            for i in range(3)
        ]
    )
    assert np.median(np.abs(together - alone).max((1, 2, 3)) / np.abs(alone).max((1, 2, 3))) < 1e-3


def test_the_map_of_the_mean_baseline_is_zero_where_the_image_is_mean(engine):
    grey = np.broadcast_to(
        np.rint(255 * np.array(engine.manifest.input.mean)).astype(np.uint8), (32, 32, 3)
    ).copy()
    grey[8:16, 8:16] = 255
    found = explain(
        engine, grey, ask(engine.manifest, "input_x_gradient", "0", {}), np.zeros(10, np.float32)
    ).map
    outside = np.ones((32, 32), bool)
    outside[8:16, 8:16] = False
    assert np.abs(found[outside]).max() < 0.05 * np.abs(found).max()


@pytest.mark.parametrize(
    ("method", "target", "given", "told"),
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
        ("integrated_gradients", None, {"steps": 1.0}, "steps is 1.0; give a whole number"),
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
def test_a_bad_question_is_refused_with_the_remedy(method, target, given, told, embedded):
    with pytest.raises(InvalidParameter) as refused:
        ask(embedded.manifest, method, target, given)
    assert told in str(refused.value)


def test_a_huge_value_is_not_repeated_whole(embedded):
    with pytest.raises(InvalidParameter) as refused:
        ask(embedded.manifest, "integrated_gradients", None, {"steps": "9" * 4000})
    assert len(str(refused.value)) < 200
    for method, target in (
        ("m" * 10**6, None),
        ("saliency", "t" * 10**6),
        ("saliency", "a," + "b" * 10**6),
    ):
        with pytest.raises(InvalidParameter) as refused:
            ask(embedded.manifest, method, target, {})
        assert len(str(refused.value)) < 600


def test_a_method_without_its_graph_is_refused_with_those_that_work(embedded):
    manifest = replace(
        embedded.manifest,
        files={name: d for name, d in embedded.manifest.files.items() if name != contract.CAM},
    )
    assert "grad_cam" not in [method.name for method in available(manifest)]
    with pytest.raises(
        MethodUnavailable,
        match=r"grad_cam needs cam\.onnx, and this model has none; it can be explained by: saliency",
    ):
        ask(manifest, "grad_cam", None, {})


def test_text_and_numbers_mean_the_same(embedded):
    assert ask(embedded.manifest, "smooth_grad", None, {"samples": "8", "noise": "0.5"}) == ask(
        embedded.manifest, "smooth_grad", None, {"samples": 8, "noise": 0.5}
    )
