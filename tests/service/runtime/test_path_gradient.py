"""The sum of gradients along a line, in one graph, is that of the gradients at its points."""

import numpy as np
import pytest

from service.bundle import folder
from service.runtime.cuda_graphs import BoundSession
from service.runtime.path_gradient import path_gradient_graph
from service.runtime.providers import open_session
from support.images import draw


@pytest.fixture(scope="module")
def gradient(embedded):
    return embedded.read(folder.GRADIENT)


@pytest.mark.parametrize("points", [1, 3, 8])
def test_one_run_sums_what_many_would_give(engine, gradient, thread, points):
    path = BoundSession(
        open_session("gradient.onnx", path_gradient_graph(gradient), "cpu", 1),
        "cpu",
        (1, 4, 8),
        thread,
    )
    x = engine.normalise(np.stack([draw(seed=seed) for seed in range(2)]))
    start, difference = x[:1], x[1:] - x[:1]
    rng = np.random.default_rng(0)
    point, weight = rng.random((2, points, 1, 1, 1), np.float32)
    target, ones = np.full(points, 3), np.ones((8, 1, 1, 1))
    path(  # a fuller batch before leaves nothing behind
        {
            "start": difference,
            "difference": start,
            "point": ones,
            "weight": ones,
            "target": np.zeros(8),
        }
    )
    found = path(
        {
            "start": start,
            "difference": difference,
            "point": point,
            "weight": weight,
            "target": target,
        }
    )["total"]
    gradients = engine.gradient(start + point * difference, target).gradient
    expected = (weight * gradients).sum(0, keepdims=True)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
