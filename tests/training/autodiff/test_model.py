"""Models keep their meaning when shapes are inferred, nodes sorted and unused parts dropped."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.autodiff import Graph, prune
from training.autodiff.model import sort, with_shapes

FLOAT = TensorProto.FLOAT


def model_of(*nodes, weights=()):
    ends = [helper.make_tensor_value_info(name, FLOAT, ["N"]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.ones(1, np.float32), name) for name in weights]
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes], "g", ends[:1], ends[1:], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_pruning_drops_what_no_output_needs_and_all_metadata():
    model = model_of(
        ("Mul", ["x", "used"], ["y"]), ("Mul", ["x", "unused"], ["z"]), weights=("used", "unused")
    )
    for part in (model, model.graph, model.graph.node[0], model.graph.initializer[0]):
        part.doc_string = "/srv/net.py"
        part.metadata_props.add(key="trace", value="/srv/net.py")
    prune(model)
    assert [node.output[0] for node in model.graph.node] == ["y"]
    assert [tensor.name for tensor in model.graph.initializer] == ["used"]
    assert b"net.py" not in model.SerializeToString()


def test_sorting_moves_a_node_behind_what_it_reads_and_keeps_the_order_otherwise():
    model = model_of(
        ("Add", ["a", "b"], ["y"]),
        ("Neg", ["x"], ["b"]),
        ("Abs", ["x"], ["a"]),
        ("Exp", ["x"], ["c"]),
    )
    sort(model)
    assert [node.output[0] for node in model.graph.node] == ["a", "b", "y", "c"]
    prune(model)
    onnx.checker.check_model(model, full_check=True)


def test_shapes_are_known_behind_a_group_normalization():
    tensors = {
        "scale": np.ones(4, np.float32),
        "bias": np.zeros(4, np.float32),
        "W": np.ones((4, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["normed"], num_groups=2),
        helper.make_node("Conv", ["normed", "W"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "normed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    built = Graph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    )
    assert built.shape("normed") == built.shape("y") == (None, 4, 6, 6)
    assert [node.op_type for node in built.model.graph.node] == ["GroupNormalization", "Conv"]


def test_many_whole_numbers_behind_an_unsqueeze_are_no_contradiction():
    places = np.arange(5_000) % 7
    nodes = [
        helper.make_node("Unsqueeze", ["places", "axes"], ["column"]),
        helper.make_node("GatherND", ["x", "column"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gathered",
        [helper.make_tensor_value_info("x", FLOAT, [7])],
        [helper.make_tensor_value_info("y", FLOAT, [5_000])],
        [numpy_helper.from_array(places, "places"), numpy_helper.from_array(np.array([1]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in with_shapes(model, strict=True).graph.value_info
    }
    assert shapes["column"] == [5_000, 1]
