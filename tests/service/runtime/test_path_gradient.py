"""The sum of gradients along a way, in one graph, is that of the gradients at its points."""

import numpy as np
import pytest

from service.bundle import folder as contract
from service.runtime.cuda_graphs import Resident
from service.runtime.path_gradient import path_graph
from service.runtime.sessions import session
from support.images import draw


@pytest.fixture(scope="module")
def gradient(embedded):
    return embedded.read(contract.GRADIENT)


@pytest.mark.parametrize("points", [1, 3, 8])
def test_one_run_sums_what_many_would_give(engine, gradient, thread, points):
    path = Resident(
        session("gradient.onnx", path_graph(gradient), "cpu", 1), "cpu", (1, 4, 8), thread
    )
    x = engine.normalise(np.stack([draw(seed=seed) for seed in range(2)]))
    start, way = x[:1], x[1:] - x[:1]
    rng = np.random.default_rng(0)
    place, share = rng.random((2, points, 1, 1, 1), np.float32)
    target = np.full(points, 3)
    path(
        {
            "start": way,
            "way": start,
            "place": np.ones((8, 1, 1, 1)),
            "share": np.ones((8, 1, 1, 1)),
            "target": np.zeros(8),
        }
    )
    found = path({"start": start, "way": way, "place": place, "share": share, "target": target})[
        "total"
    ]
    expected = (share * engine.gradient(start + place * way, target).gradient).sum(0, keepdims=True)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
