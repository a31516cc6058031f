"""A session with fixed arrays answers as one without.

The arrays are in the host's memory here, where answers are no copies.
"""

import numpy as np
import pytest

from service.bundle import folder
from service.runtime.cuda_graphs import BoundSession
from service.runtime.providers import open_session
from service.runtime.sessions import self_test_image
from support.images import draw

SIZES = (1, 2, 4, 8)
IMAGES = np.stack([draw(seed=seed) for seed in range(8)])


@pytest.fixture(scope="module", params=[folder.PREDICT, folder.GRADIENT, folder.CAM])
def graph(request, embedded, engine, thread):
    """A session with fixed arrays, one without, and eight rows of inputs."""
    opened = [open_session(request.param, embedded.read(request.param), "cpu", 1) for _ in range(2)]
    x = {"x": engine.normalise(IMAGES), "target": np.arange(8)}
    return (
        BoundSession(opened[0], "cpu", SIZES, thread),
        opened[1],
        {"image": IMAGES} if request.param == folder.PREDICT else x,
    )


def first(feeds, rows):
    return {name: value[:rows] for name, value in feeds.items()}


def difference(found, plain, feeds):
    expected = dict(
        zip([output.name for output in plain.get_outputs()], plain.run(None, feeds), strict=True)
    )
    assert found.keys() == expected.keys()
    assert all(
        found[name].shape == value.shape and found[name].dtype == value.dtype
        for name, value in expected.items()
    )
    return max(float(np.abs(found[name] - value).max()) for name, value in expected.items())


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_any_number_of_rows_answers_as_the_graph_does(graph, rows):
    bound, plain, feeds = graph
    assert difference(bound(first(feeds, rows)), plain, first(feeds, rows)) < 1e-4


def test_an_earlier_batch_leaves_nothing_behind(graph):
    bound, plain, feeds = graph
    bound({name: value[::-1] for name, value in feeds.items()})
    assert difference(bound(first(feeds, 5)), plain, first(feeds, 5)) < 1e-4


def test_an_array_of_another_shape_is_an_error(graph):
    bound, _, feeds = graph
    name = next(iter(feeds))
    with pytest.raises(ValueError, match="could not broadcast"):
        bound(feeds | {name: np.zeros((2, 5, 5, 7), feeds[name].dtype)})
    assert len(bound(first(feeds, 2))["logits"]) == 2


def test_the_self_test_image_is_one_of_a_batch(embedded, engine, thread):
    bound = BoundSession(
        open_session(folder.PREDICT, embedded.read(folder.PREDICT), "cpu", 1), "cpu", SIZES, thread
    )
    image = self_test_image(embedded.manifest.input.size)
    found = bound({"image": np.concatenate([IMAGES[:4], image])})["logits"][4]
    assert np.abs(found - engine.predict(image).logits[0]).max() < 1e-4
