"""Every method gives a finite map of the right size, the same each time, and sums as defined."""

import numpy as np
import pytest

from service.explain import METHODS, ask, explain
from service.explain.maps import gradients
from service.explain.maps.baselines import baseline_rows
from support.images import draw
from support.methods import OF_CNNS

PIXELS = draw("blue")


def answer(engine, method, target="3", **given):
    return explain(
        engine,
        PIXELS,
        ask(engine.manifest, method, target, given),
        engine.predict(PIXELS[None]).logits[0],
    )


@pytest.mark.parametrize("method", OF_CNNS)
def test_every_method_gives_a_finite_map_of_the_input_size(method, engine):
    result = answer(engine, method)
    assert result.map.shape == (32, 32)
    assert result.map.dtype == np.float32
    assert np.isfinite(result.map).all()
    assert np.abs(result.map).max() > 0
    assert result.target.index == 3
    assert METHODS[method].sign == "signed" or result.map.min() >= 0


@pytest.mark.parametrize("method", OF_CNNS)
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
    result = answer(engine, "integrated_gradients", steps=128, baseline=baseline)
    batch = PIXELS[None]
    start = baseline_rows(engine, batch, baseline)
    logits = engine.gradient(
        np.concatenate([engine.normalise(batch), start]), np.array([3, 3])
    ).logits[:, 3]
    assert float(result.map.sum()) == pytest.approx(
        float(logits[0] - logits[1]), rel=0.05, abs=0.02
    )
    gap = abs(float(result.map.sum()) - float(logits[0] - logits[1])) / abs(
        float(logits[0] - logits[1])
    )
    assert result.quality["completeness_gap"] == pytest.approx(gap, abs=1e-3)


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
    result = explain(
        engine, grey, ask(engine.manifest, "input_x_gradient", "0", {}), np.zeros(10, np.float32)
    ).map
    outside = np.ones((32, 32), bool)
    outside[8:16, 8:16] = False
    assert np.abs(result[outside]).max() < 0.05 * np.abs(result).max()
