"""The sum of gradients along a straight way as one graph, for devices that the way from and to the host's memory is dear for.

Integrated Gradients needs the gradient at 50 points and keeps their weighted sum: for 224 × 224 pixels 30 MB go to a GPU and as many come
back, and take as long as the gradients. Here two images go and one comes back. The graph is made of a bundle's gradient.onnx:

    start, way   float32 (1, 3, S, S)   the beginning of the way, and the whole of it
    place        float32 (N, 1, 1, 1)   of each point on it, 0…1
    share        float32 (N, 1, 1, 1)   of each point in the sum
    target       int64 (N,)             as in gradient.onnx
    total        float32 (1, 3, S, S)   Σ share · gradient at start + place · way
"""

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

ROWS = "N"
AXES = "path/axes"


def path_graph(gradient: bytes) -> bytes:
    """The graph above, of the gradient.onnx `gradient`, in whichever precision that is inside."""
    model = onnx.load_model_from_string(gradient)
    graph = model.graph
    inputs = {of.name: of for of in graph.input}
    image = [of.dim_value for of in inputs["x"].type.tensor_type.shape.dim][1:]
    del graph.input[:], graph.output[:]
    images, numbers = (
        [_float32(name, [1, *image]) for name in ("start", "way")],
        [_float32(name, [ROWS, 1, 1, 1]) for name in ("place", "share")],
    )
    graph.input.extend([*images, *numbers, inputs["target"]])
    graph.output.append(_float32("total", [1, *image]))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), AXES))
    points = [
        helper.make_node("Mul", ["way", "place"], ["path/step"]),
        helper.make_node("Add", ["start", "path/step"], ["x"]),
    ]
    sums = [
        helper.make_node("Mul", ["gradient", "share"], ["path/part"]),
        helper.make_node("ReduceSum", ["path/part", AXES], ["total"], keepdims=1),
    ]
    nodes = [*points, *graph.node, *sums]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _float32(name: str, dims: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
