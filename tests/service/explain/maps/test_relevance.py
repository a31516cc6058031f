"""The relevance of a transformer finds the patch that decides, as it is served."""

import gc

import numpy as np
import onnxruntime as ort
import pytest
import torch

from service.bundle import folder as contract
from service.bundle.manifest import Manifest
from service.errors import MethodUnavailable
from service.explain import ask, available, explain
from service.runtime.choice import Choice
from service.runtime.engine import Engine
from service.runtime.sessions import open_sessions
from support.transformer import GRID, PATCH, SIDE, SPEC, exported, planted, trained
from training.export.derive import complete
from training.export.foreign_bundle import make_foreign_bundle

IMAGES = 40


@pytest.fixture(scope="module", params=[False, True], ids=["mean of tokens", "class token"])
def bundle(request, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = trained(class_token=request.param)
    torch.set_num_threads(threads)
    folder = tmp_path_factory.mktemp("transformer")
    manifest = Manifest("patches", ("red", "green", "blue"), SPEC)
    return make_foreign_bundle(exported(network, folder), manifest, folder / "bundle")


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu", 1)


def answer(engine, pixels, target=None, method="attn_lrp"):
    question = ask(engine.manifest, method, target, {})
    return explain(engine, pixels, question, engine.predict(pixels[None]).logits[0])


def strongest(values):
    """The cell of the grid with the largest sum of the map."""
    sums = values.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
    return np.unravel_index(sums.argmax(), sums.shape)


def test_the_patch_that_decides_has_the_most_relevance(engine):
    pixels, classes, places = planted(IMAGES, seed=10_000)
    assert (engine.predict(pixels).logits.argmax(1) == classes).mean() > 0.95
    hits = {
        method: np.mean(
            [
                strongest(answer(engine, image, method=method).map) == tuple(place)
                for image, place in zip(pixels, places, strict=True)
            ]
        )
        for method in ("attn_lrp", "input_x_gradient")
    }
    assert hits["attn_lrp"] >= 0.9
    assert hits["attn_lrp"] > hits["input_x_gradient"] + 0.2


def test_the_logits_are_those_of_the_prediction_and_rows_do_not_depend_on_each_other(engine):
    pixels, classes, _ = planted(3, seed=1)
    x = engine.normalise(pixels)
    whole = engine.relevance(x, classes)
    assert np.abs(whole.logits - engine.predict(pixels).logits).max() < 1e-4
    for row in range(3):
        alone = engine.relevance(x[row : row + 1], classes[row : row + 1])
        difference = np.abs(alone.relevance - whole.relevance[row]).max()
        assert difference < 1e-4 * np.abs(whole.relevance).max()


def test_a_contrast_is_the_difference_of_two_maps(engine):
    (pixels,), _, _ = planted(1, seed=2)
    maps = [answer(engine, pixels, target).map for target in ("red,blue", "red", "blue")]
    assert np.abs(maps[0] - (maps[1] - maps[2])).max() < 1e-4 * np.abs(maps[0]).max()


def test_the_map_claims_no_sum_and_has_the_cosine_with_another_class(engine):
    (pixels,), _, _ = planted(1, seed=3)
    measured = answer(engine, pixels).quality
    assert set(measured) == {"class_cosine"}
    assert measured["class_cosine"] < 0.9


def test_the_graph_is_derived_from_the_prediction(bundle):
    (bundle.folder / contract.LRP).unlink()
    with pytest.raises(contract.MissingFileError, match="python -m training derive"):
        contract.load(bundle.folder)
    assert complete(bundle.folder) == [contract.LRP]
    assert contract.load(bundle.folder) == bundle


def test_its_weights_are_in_memory_once(bundle):
    def opened():
        return sum(type(thing) is ort.InferenceSession for thing in gc.get_objects())

    before = opened()
    sessions = open_sessions(bundle, "cpu", 2, Choice(), alone=True)
    graphs = len([name for name in bundle.manifest.files if name.endswith(".onnx")])
    heads = sessions.head is not None
    assert opened() - before == 2 * graphs - 1 + heads
    x, target = np.ones((3, 3, SIDE, SIDE), np.float32), np.arange(3)
    one, every = (
        sessions.run(contract.LRP, {"x": x, "target": target}, all_cores=all_cores)["relevance"]
        for all_cores in (False, True)
    )
    assert np.abs(one - every).max() < 1e-5 * np.abs(one).max()


def test_a_bundle_of_a_cnn_has_no_such_method_and_no_such_file(embedded):
    assert "attn_lrp" not in [method.name for method in available(embedded.manifest)]
    assert not embedded.has(contract.LRP)
    with pytest.raises(MethodUnavailable, match=r"attn_lrp needs lrp\.onnx"):
        ask(embedded.manifest, "attn_lrp", None, {})
