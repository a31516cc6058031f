"""A costly network is measured on fewer images, the same on every machine."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.folder import PREDICT, load
from service.settings import EMBEDDED_BUNDLE
from training.audit.budget import MEASURES, counts, multiplications, pass_seconds

MOST = {name: measure.most for name, measure in MEASURES.items()}


def network(side: int) -> onnx.ModelProto:
    """A depthwise convolution and a pointwise one on `side` × `side` pixels, and a head."""
    weights = {
        "depthwise": np.zeros((3, 1, 3, 3), np.float32),
        "pointwise": np.zeros((4, 3, 1, 1), np.float32),
        "head": np.zeros((4, 5), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "depthwise"], ["a"], group=3, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "pointwise"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "head"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_multiplications_are_those_of_one_image():
    assert multiplications(network(8)) == 64 * 3 * 9 + 64 * 4 * 3 + 4 * 5


def test_the_embedded_network_is_measured_on_the_most_images():
    model = onnx.load_model_from_string(load(EMBEDDED_BUNDLE).read(PREDICT))
    assert counts(model, 32, 20.0) == MOST


def test_a_costly_network_is_measured_on_as_many_images_as_fit_the_minutes():
    model = network(5500)
    cost = pass_seconds(model, 224)
    few, more = counts(model, 224, 10.0), counts(model, 224, 20.0)
    assert 10 * 60 < sum(more[name] * MEASURES[name].passes for name in more) * cost / 2 <= 20 * 60
    assert all(few[name] < more[name] < MOST[name] for name in ("corruptions", "attacks"))


def test_every_measure_has_an_image_however_costly_the_network_is():
    assert set(counts(network(10**6), 224, 1.0).values()) == {1}
