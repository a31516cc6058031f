"""The reverse pass sums gradients, and visits no more nodes than it must."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from training.autodiff import DifferentiationError, Graph

FLOAT = TensorProto.FLOAT


def graph_of(nodes, outputs=("y",)):
    """A graph from x float32 (3,)."""
    ends = [helper.make_tensor_value_info(name, FLOAT, [3]) for name in ("x", *outputs)]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "g", ends[:1], ends[1:])
    return Graph(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def gradient_at(graph, x, seeds):
    """The gradient of x, where the gradient of each output in `seeds` is 1."""
    ones = graph.constant(np.ones(3, np.float32))
    gradient = graph.gradient(dict.fromkeys(seeds, ones), ["x"])["x"]
    model = graph.finish({}, {"gradient": (gradient, FLOAT, [3])})
    return ReferenceEvaluator(model).run(None, {"x": np.array(x, np.float32)})[0].tolist()


def test_a_value_that_is_used_three_times_gets_the_sum():
    graph = graph_of(
        [("Mul", ["x", "x"], ["a"]), ("Sin", ["a"], ["b"]), ("Add", ["a", "x"], ["y"])]
    )
    assert gradient_at(graph, [1, -2, 3], ["y"]) == [3, -3, 7]


def test_gradients_of_several_outputs_add_up():
    graph = graph_of([("Neg", ["x"], ["y"]), ("Mul", ["x", "x"], ["z"])], outputs=("y", "z"))
    assert gradient_at(graph, [1, -2, 3], ["y", "z"]) == [1, -5, 5]


def test_a_branch_that_the_answer_does_not_depend_on_needs_no_rule():
    graph = graph_of([("Det", ["x"], ["unused"]), ("Neg", ["x"], ["y"])])
    assert gradient_at(graph, [1, 2, 3], ["y"]) == [-1, -1, -1]


def test_a_comparison_needs_no_rule():
    nodes = [
        ("Greater", ["x", "x"], ["c"]),
        ("Neg", ["x"], ["n"]),
        ("Where", ["c", "x", "n"], ["y"]),
    ]
    assert gradient_at(graph_of(nodes), [1, 2, 3], ["y"]) == [-1, -1, -1]


def test_a_tensor_that_the_answer_does_not_depend_on_is_an_error():
    graph = graph_of([("Neg", ["x"], ["y"]), ("Abs", ["x"], ["z"])])
    with pytest.raises(DifferentiationError, match="the answer does not depend on z"):
        graph.gradient({"y": "seed"}, ["z"])
