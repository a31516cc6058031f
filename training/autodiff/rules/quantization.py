"""Rounding to integers and back, differentiated straight through.

A pair of QuantizeLinear and DequantizeLinear is a staircase around the identity on the range of its
integers. Its gradient is taken for that of the identity there, and 0 beyond, as in Bengio, Léonard
and Courville, arXiv 1308.3432, and Jacob et al., arXiv 1712.05877. Scale and zero point are
constants.
"""

import numpy as np
from onnx import TensorProto

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule

RANGES: dict[int, tuple[int, int]] = {  # by element type
    TensorProto.INT4: (-(2**3), 2**3 - 1),
    TensorProto.INT8: (-(2**7), 2**7 - 1),
    TensorProto.INT16: (-(2**15), 2**15 - 1),
    TensorProto.UINT4: (0, 2**4 - 1),
    TensorProto.UINT8: (0, 2**8 - 1),
    TensorProto.UINT16: (0, 2**16 - 1),
}


@rule("QuantizeLinear")
def _quantize(ctx: Context) -> dict[int, str]:
    """Gradient of round(x/s) + zero point: g/s where no integer is clipped, else 0."""
    graph, scale = ctx.graph, _along_axis(ctx, ctx.node.input[1])
    kind = graph.dtype(ctx.y)
    if kind not in RANGES:
        raise ctx.unsupported("it rounds to a type other than an integer of 4, 8 or 16 bits")
    (lowest, highest), point = RANGES[kind], ctx.constant_input(2)
    zero = np.zeros((), np.float32) if point is None else np.asarray(point, np.float32)
    low, high = (
        _along_axis(ctx, graph.constant(np.asarray(bound - zero, np.float32)))
        for bound in (lowest - 0.5, highest + 0.5)
    )
    steps = graph.node("Div", ctx.x, scale)
    inside = graph.node(
        "And", graph.node("GreaterOrEqual", steps, low), graph.node("Less", steps, high)
    )
    return {0: graph.node("Where", inside, graph.node("Div", ctx.gradient, scale), 0.0)}


@rule("DequantizeLinear")
def _dequantize(ctx: Context) -> dict[int, str]:
    """Gradient of (x − zero point)·s: g·s."""
    scale = _along_axis(ctx, ctx.node.input[1])
    return {0: ctx.graph.node("Mul", ctx.gradient, scale)}


def _along_axis(ctx: Context, name: str) -> str:
    """A scalar, or a vector with a number for each index of the node's axis, to be broadcast."""
    graph: Builder = ctx.graph
    rank, sizes = len(graph.shape(ctx.x)), graph.shape(name)
    if ctx.attribute("block_size", 0) or len(sizes) > 1:
        raise ctx.unsupported("it has a scale for each block")
    if not sizes or sizes == (1,):
        return name if not sizes else graph.node("Squeeze", name)
    behind = rank - 1 - ctx.attribute("axis", 1) % rank
    return graph.node("Reshape", name, graph.integers(-1, *[1] * behind))
