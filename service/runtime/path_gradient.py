"""A weighted sum of gradients along a straight line, as one graph for a GPU.

Integrated Gradients needs the gradient at 50 points and keeps their weighted sum. Of 224 × 224
pixels, 30 MB would go to the GPU and as many come back, which takes as long as the gradients. Here
two images go and one comes back. The graph is built from a bundle's gradient.onnx:

    start        float32 (1, 3, H, W)
    difference   float32 (1, 3, H, W)   from the start to the end of the line
    point        float32 (N, 1, 1, 1)   places on the line, 0…1
    weight       float32 (N, 1, 1, 1)   of each point in the sum
    target       int64 (N,)             as in gradient.onnx
    total        float32 (1, 3, H, W)   Σ weight · gradient at start + point · difference
"""

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

ROWS = "N"
AXES = "path/axes"


def path_gradient_graph(gradient: bytes) -> bytes:
    """The graph above, of the gradient.onnx `gradient`, in the precision of its inside."""
    model = onnx.load_model_from_string(gradient)
    graph = model.graph
    inputs = {info.name: info for info in graph.input}
    shape = [dimension.dim_value for dimension in inputs["x"].type.tensor_type.shape.dim][1:]
    del graph.input[:], graph.output[:]
    images = [_float32(name, [1, *shape]) for name in ("start", "difference")]
    scalars = [_float32(name, [ROWS, 1, 1, 1]) for name in ("point", "weight")]
    graph.input.extend([*images, *scalars, inputs["target"]])
    graph.output.append(_float32("total", [1, *shape]))
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), AXES))
    points = [
        helper.make_node("Mul", ["difference", "point"], ["path/step"]),
        helper.make_node("Add", ["start", "path/step"], ["x"]),
    ]
    sums = [
        helper.make_node("Mul", ["gradient", "weight"], ["path/part"]),
        helper.make_node("ReduceSum", ["path/part", AXES], ["total"], keepdims=1),
    ]
    # ONNX wants every node after those that it reads from.
    nodes = [*points, *graph.node, *sums]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _float32(name: str, dimensions: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions)
