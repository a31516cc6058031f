"""A graph whose arrays stay in places of its own answers as the graph does: tested in the host's memory, where answers are no copies."""

import numpy as np
import pytest

from service.bundle import folder as contract
from service.runtime.cuda_graphs import Resident
from service.runtime.engine import self_test_image
from service.runtime.sessions import session
from support.images import draw

SIZES = (1, 2, 4, 8)
IMAGES = np.stack([draw(seed=seed) for seed in range(8)])


@pytest.fixture(scope="module", params=[contract.PREDICT, contract.GRADIENT, contract.CAM])
def graph(request, embedded, engine, thread):
    """A graph in places of its own, the same without, and eight rows of inputs."""
    opened = [session(request.param, embedded.read(request.param), "cpu", 1) for _ in range(2)]
    x = {"x": engine.normalise(IMAGES), "target": np.arange(8)}
    return (
        Resident(opened[0], "cpu", SIZES, thread),
        opened[1],
        {"image": IMAGES} if request.param == contract.PREDICT else x,
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
    resident, plain, feeds = graph
    assert difference(resident(first(feeds, rows)), plain, first(feeds, rows)) < 1e-4


def test_what_an_earlier_batch_left_behind_changes_nothing(graph):
    resident, plain, feeds = graph
    resident({name: value[::-1] for name, value in feeds.items()})
    assert difference(resident(first(feeds, 5)), plain, first(feeds, 5)) < 1e-4


def test_an_array_of_another_shape_is_refused(graph):
    resident, _, feeds = graph
    name = next(iter(feeds))
    with pytest.raises(ValueError, match="could not broadcast"):
        resident(feeds | {name: np.zeros((2, 5, 5, 7), feeds[name].dtype)})
    assert len(resident(first(feeds, 2))["logits"]) == 2


def test_the_self_test_image_is_one_of_a_batch(embedded, engine, thread):
    resident = Resident(
        session(contract.PREDICT, embedded.read(contract.PREDICT), "cpu", 1), "cpu", SIZES, thread
    )
    image = self_test_image(embedded.manifest.input.size)
    found = resident({"image": np.concatenate([IMAGES[:4], image])})["logits"][4]
    assert np.abs(found - engine.predict(image).logits[0]).max() < 1e-4
