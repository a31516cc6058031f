"""Normalisations. Statistics that depend on the image are computed again rather than asked of the forward node."""

from collections.abc import Sequence

import numpy as np

from training.autodiff.graph import Call, Graph, rule


@rule("BatchNormalization")
def _batch(call: Call) -> dict[int, str]:
    """g·scale/√(variance + ε): the statistics are those of the training."""
    graph = call.graph
    scale, _, _, variance = call.node.input[1:5]
    epsilon = graph.constant(call.attribute("epsilon", 1e-5))
    slope = graph.node("Div", scale, graph.node("Sqrt", graph.node("Add", variance, epsilon)))
    return {0: graph.node("Mul", call.gradient, _per_channel(graph, slope, call.x))}


def _per_channel(graph: Graph, name: str, x: str) -> str:
    """A vector (C,) as (C, 1, …), to go with `x` (N, C, …)."""
    return graph.node("Reshape", name, graph.integers(-1, *[1] * (len(graph.shape(x)) - 2)))


@rule("LayerNormalization")
def _layer(call: Call) -> dict[int, str]:
    """Over the axes from `axis` on."""
    graph, rank = call.graph, len(call.graph.shape(call.x))
    axes = range(call.attribute("axis", -1) % rank, rank)
    gradient = graph.node("Mul", call.gradient, call.node.input[1])
    return {0: _standardised(graph, call.x, gradient, axes, call.attribute("epsilon", 1e-5))}


@rule("InstanceNormalization")
def _instance(call: Call) -> dict[int, str]:
    """Over the pixels of each channel."""
    graph = call.graph
    gradient = graph.node("Mul", call.gradient, _per_channel(graph, call.node.input[1], call.x))
    axes = range(2, len(graph.shape(call.x)))
    return {0: _standardised(graph, call.x, gradient, axes, call.attribute("epsilon", 1e-5))}


@rule("GroupNormalization")
def _group(call: Call) -> dict[int, str]:
    """Over the channels and pixels of each group; scale is one number a group before opset 21, a channel since."""
    graph, shape = call.graph, call.graph.shape(call.x)
    groups, channels, scale = (
        call.attribute("num_groups"),
        graph.size(call.x, (1,)),
        call.node.input[1],
    )
    if graph.shape(scale) != (channels,):
        each = graph.node(
            "Expand",
            graph.node("Reshape", scale, graph.integers(groups, 1)),
            graph.integers(groups, channels // groups),
        )
        scale = graph.node("Reshape", each, graph.integers(channels))
    gradient = graph.node("Mul", call.gradient, _per_channel(graph, scale, call.x))
    split = graph.integers(
        -1, groups, channels // groups * graph.size(call.x, range(2, len(shape)))
    )
    x, gradient = (graph.node("Reshape", name, split) for name in (call.x, gradient))
    size = channels // groups * graph.size(call.x, range(2, len(shape)))
    return {
        0: graph.like(
            _standardise_back(graph, x, gradient, (2,), size, call.attribute("epsilon", 1e-5)),
            call.x,
        )
    }


@rule("LpNormalization")
def _unit(call: Call) -> dict[int, str]:
    """x/‖x‖₂: (g − y·Σ g·y)/‖x‖₂."""
    if call.attribute("p", 2) != 2:  # noqa: PLR2004
        raise call.unsupported("only p = 2 is differentiated")
    graph, axis = call.graph, call.attribute("axis", -1)
    inner = graph.sum(graph.node("Mul", call.gradient, call.y), (axis,))
    norm = graph.node("Sqrt", graph.sum(graph.node("Mul", call.x, call.x), (axis,)))
    return {
        0: graph.node(
            "Div", graph.node("Sub", call.gradient, graph.node("Mul", call.y, inner)), norm
        )
    }


@rule("LRN")
def _local_response(call: Call) -> dict[int, str]:
    """x·d^(−β) with d = bias + α/n·Σ x² over n neighbouring channels: g·d^(−β) − 2αβ/n·x·Σ g·x·d^(−β−1)."""
    graph, channels = call.graph, call.graph.size(call.x, (1,))
    alpha, beta, bias = (
        call.attribute("alpha", 1e-4),
        call.attribute("beta", 0.75),
        call.attribute("bias", 1.0),
    )
    size = call.attribute("size")
    offset = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = ((offset >= -((size - 1) // 2)) & (offset <= size // 2)).astype(np.float32)[
        :, :, None, None
    ]
    squares = graph.node("Conv", graph.node("Mul", call.x, call.x), graph.constant(band))
    scale = graph.node(
        "Add", graph.node("Mul", squares, graph.constant(alpha / size)), graph.constant(bias)
    )
    direct = graph.node("Mul", call.gradient, graph.node("Pow", scale, graph.constant(-beta)))
    inner = graph.node(
        "Mul",
        graph.node("Mul", call.gradient, call.x),
        graph.node("Pow", scale, graph.constant(-beta - 1)),
    )
    spread = graph.node(
        "Conv", inner, graph.constant(np.ascontiguousarray(band.transpose(1, 0, 2, 3)))
    )
    through = graph.node(
        "Mul", graph.node("Mul", call.x, spread), graph.constant(2 * alpha * beta / size)
    )
    return {0: graph.node("Sub", direct, through)}


def _standardised(graph: Graph, x: str, gradient: str, axes: Sequence[int], epsilon: float) -> str:
    return _standardise_back(graph, x, gradient, axes, graph.size(x, axes), epsilon)


def _standardise_back(
    graph: Graph, x: str, gradient: str, axes: Sequence[int], size: int, epsilon: float
) -> str:
    """Back through z = (x − mean)/√(variance + ε) over `axes` of `size` elements: (g − mean g − z·mean(g·z))/√(variance + ε)."""
    share = graph.constant(1 / size)

    def mean(name: str) -> str:
        return graph.node("Mul", graph.sum(name, axes), share)

    centred = graph.node("Sub", x, mean(x))
    variance = mean(graph.node("Mul", centred, centred))
    inverse = graph.node(
        "Reciprocal", graph.node("Sqrt", graph.node("Add", variance, graph.constant(epsilon)))
    )
    z = graph.node("Mul", centred, inverse)
    along = graph.node("Mul", z, mean(graph.node("Mul", gradient, z)))
    return graph.node(
        "Mul", graph.node("Sub", graph.node("Sub", gradient, mean(gradient)), along), inverse
    )
