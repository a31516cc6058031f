"""On a GPU the engine answers as on the CPU. Skipped where none is."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import DeviceError
from service.explain.maps import gradients
from service.runtime.cuda_graphs import open_bound
from service.runtime.engine import Engine
from service.runtime.sessions import GPU_ROWS
from support.images import draw

BATCH = np.stack([draw(seed=seed) for seed in range(70)])
NEAR = 1e-4  # of the largest


@pytest.fixture(scope="module")
def gpu(embedded):
    try:
        return Engine(embedded, "cuda")
    except DeviceError as error:
        pytest.skip(str(error))


def apart(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("rows", [*GPU_ROWS, 3, 70])
def test_any_number_of_rows_answers_as_on_the_cpu(gpu, engine, rows):
    batch, target = BATCH[:rows], np.arange(rows) % 10
    ours, theirs = gpu.predict(batch), engine.predict(batch)
    assert apart(ours.logits, theirs.logits) < NEAR
    assert apart(ours.features, theirs.features) < NEAR
    x = engine.normalise(batch)
    assert apart(gpu.gradient(x, target).gradient, engine.gradient(x, target).gradient) < NEAR
    assert apart(gpu.cam(x, target).cam, engine.cam(x, target).cam) < NEAR


def test_an_answer_stays_when_the_next_is_computed(gpu, engine):
    found = gpu.predict(BATCH[:8])
    gpu.predict(BATCH[8:16])
    assert apart(found.logits, engine.predict(BATCH[:8]).logits) < NEAR


def test_predictions_beside_explanations_get_their_own(gpu):
    expected = gpu.predict(BATCH).logits
    target = expected.argmax(1)
    with ThreadPoolExecutor(4) as callers:
        maps = [callers.submit(gradients.saliency, gpu, BATCH[:40], target[:40]) for _ in range(2)]
        found = list(
            callers.map(lambda row: gpu.predict(BATCH[row : row + 1]).logits[0], range(70))
        )
        first, second = (each.result().attribution for each in maps)
    assert apart(np.stack(found), expected) < NEAR
    assert np.array_equal(first, second)


@pytest.mark.parametrize("steps", [7, 50, 100])
def test_integrated_gradients_are_those_of_the_cpu(gpu, engine, steps):
    target = engine.predict(BATCH[:3]).logits.argmax(1)
    ours, theirs = (
        gradients.integrated_gradients(each, BATCH[:3], target, steps, "mean")
        for each in (gpu, engine)
    )
    assert apart(ours.attribution, theirs.attribution) < NEAR
    assert apart(ours.difference, theirs.difference) < NEAR


def test_a_graph_that_cannot_be_replayed_runs_all_the_same(gpu, thread, caplog):
    """ONNX Runtime has no kernel for the tangent on a GPU."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])
    nodes = [
        helper.make_node("Neg", ["image"], ["a"]),
        helper.make_node("Tan", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["logits"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "tan", [image], [logits]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    x = np.linspace(-1, 1, 9, dtype=np.float32).reshape(3, 3)
    with caplog.at_level("INFO", "candor"):
        found = open_bound("predict.onnx", model.SerializeToString(), "cuda", (1, 4), thread)(
            {"image": x}
        )
    assert "does not run with enable_cuda_graph" in caplog.text
    assert np.abs(found["logits"] - np.tan(x)).max() < 1e-4
