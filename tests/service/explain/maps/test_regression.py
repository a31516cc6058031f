"""The algebra of the methods that perturb: as exact as singular values, in short steps."""

import time

import numpy as np
import pytest

from service.explain import ask, explain
from service.explain.maps import regression
from service.explain.maps.regression import (
    ALGEBRA_ROWS,
    LIME_RIDGE,
    Coalitions,
    Ridge,
    constrained_least_squares,
    shapley_coalitions,
)
from service.runtime.engine import Piece
from support.images import draw

CASES = [(4, 16), (4, 256), (64, 16), (64, 128), (64, 1024), (256, 1024), (256, 4096)]


def drawn(engine, segments, samples):
    rng = np.random.default_rng(segments + samples)
    shown = shapley_coalitions(engine, segments, samples, rng)
    values = rng.normal(size=(segments, 2))
    return shown, shown @ values + 0.3 * rng.normal(size=(len(shown), 2)), values.sum(0)


@pytest.mark.parametrize(("segments", "samples"), CASES)
def test_shapley_values_are_those_of_a_solution_by_singular_values(segments, samples, engine):
    shown, scores, total = drawn(engine, segments, samples)
    even = total / segments
    centred = shown - shown.mean(1, keepdims=True)
    expected = np.linalg.lstsq(centred, scores - shown.sum(1, keepdims=True) * even, rcond=None)[0]
    expected = (expected - expected.mean(0) + even).T
    found = constrained_least_squares(engine, shown, scores, total)
    # Where coalitions are fewer than segments the ridge shows, far below their random error.
    most = 1e-6 if samples > 2 * segments else 1e-4
    assert np.abs(found - expected).max() < most * np.abs(expected).max()
    assert np.abs(found.sum(1) - total).max() < 1e-9


@pytest.mark.parametrize(("segments", "samples"), CASES)
def test_the_linear_model_of_lime_solves_its_weighted_ridge_regression(segments, samples, engine):
    shown, scores, _ = drawn(engine, segments, samples)
    weights = np.random.default_rng(0).uniform(0.1, 1.0, len(shown))
    fitted = Ridge(engine, Coalitions(shown, scores), weights)
    found = fitted.coefficients()
    expected = ridge(shown, scores, weights)
    assert np.abs(found - expected[:-1].T).max() < 1e-9 * np.abs(expected).max()


def ridge(shown, scores, weights):
    """Coefficients and intercept by the textbook's formula."""
    x = np.column_stack([shown, np.ones(len(shown))])
    penalty = LIME_RIDGE * np.diag([*np.ones(shown.shape[1]), 0.0])
    return np.linalg.solve(x.T * weights @ x + penalty, x.T * weights @ scores)


@pytest.mark.parametrize(("segments", "samples"), [(4, 16), (64, 16), (64, 128)])
def test_the_r2_of_lime_is_of_coalitions_that_were_left_out(segments, samples, engine):
    shown, scores, _ = drawn(engine, segments, samples)
    weights = np.random.default_rng(0).uniform(0.1, 1.0, len(shown))
    fitted = Ridge(engine, Coalitions(shown, scores), weights)
    errors, spread = [], []
    for row in range(len(shown)):
        rest = np.arange(len(shown)) != row
        line = ridge(shown[rest], scores[rest], weights[rest])
        errors.append(scores[row] - np.append(shown[row], 1) @ line)
        spread.append(scores[row] - np.average(scores[rest], axis=0, weights=weights[rest]))
    expected = 1 - weights @ np.square(errors) / (weights @ np.square(spread))
    assert fitted.left_out_r2(fitted.coefficients()) == pytest.approx(expected, abs=1e-9)


def test_coalitions_do_not_depend_on_the_steps_in_which_they_are_drawn(engine, monkeypatch):
    sets = []
    for rows in (ALGEBRA_ROWS, 10_000):
        monkeypatch.setattr(regression, "ALGEBRA_ROWS", rows)
        sets.append(shapley_coalitions(engine, 64, 1024, np.random.default_rng(0)))
    assert np.array_equal(*sets)


@pytest.mark.benchmark
@pytest.mark.parametrize("samples", [1024, 2048, 4096])
@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
def test_no_step_of_the_dearest_question_takes_long(method, samples, engine):
    times = []

    def pacer(remaining):
        times.append(time.thread_time())
        return Piece(min(remaining, engine.most_rows), all_cores=False)

    pixels = draw("red")
    question = ask(engine.manifest, method, None, {"samples": samples, "segments": 32})
    explain(engine.paced(pacer), pixels, question, engine.predict(pixels[None]).logits[0])
    steps = np.diff([*times, time.thread_time()])
    assert steps.max() < 0.25, f"{steps.max():.2f} s of {steps.sum():.1f} s"
