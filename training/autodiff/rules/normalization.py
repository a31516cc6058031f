"""Normalisations. Their statistics are computed anew: the forward nodes do not output them."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule

EPSILON = 1e-5  # ONNX's default

# Context, x, gradient of z, axes, elements along them → gradient of x, where z is x standardised.
Back = Callable[[Context, str, str, Sequence[int], int], str]


def standardised(ctx: Context, x: str, gradient: str, axes: Sequence[int], size: int) -> str:
    """Gradient of z = (x − mean)/√(variance + ε) over `axes`, which hold `size` elements.

    (g − mean(g) − z·mean(g·z))/√(variance + ε), as in Ioffe and Szegedy, arXiv 1502.03167, section
    3; here g is `gradient`.
    """
    graph, share = ctx.graph, ctx.graph.constant(1 / size)
    centred, inverse = _spread(ctx, x, axes, share)
    z = graph.node("Mul", centred, inverse)
    along = graph.node("Mul", z, _mean(graph, graph.node("Mul", gradient, z), axes, share))
    centre = _mean(graph, gradient, axes, share)
    tangent = graph.node("Sub", graph.node("Sub", gradient, centre), along)
    return graph.node("Mul", tangent, inverse)


def with_constant_deviation(
    ctx: Context, x: str, gradient: str, axes: Sequence[int], size: int
) -> str:
    """Gradient of z as in `standardised`, if √(variance + ε) were a constant."""
    graph, share = ctx.graph, ctx.graph.constant(1 / size)
    _, inverse = _spread(ctx, x, axes, share)
    centred = graph.node("Sub", gradient, _mean(graph, gradient, axes, share))
    return graph.node("Mul", centred, inverse)


def _spread(ctx: Context, x: str, axes: Sequence[int], share: str) -> tuple[str, str]:
    """The tensors x − mean and 1/√(variance + ε)."""
    graph = ctx.graph
    centred = graph.node("Sub", x, _mean(graph, x, axes, share))
    variance = _mean(graph, graph.node("Mul", centred, centred), axes, share)
    epsilon = ctx.attribute("epsilon", EPSILON)
    deviation = graph.node("Sqrt", graph.node("Add", variance, epsilon))
    return centred, graph.node("Reciprocal", deviation)


def _mean(graph: Builder, name: str, axes: Sequence[int], share: str) -> str:
    return graph.node("Mul", graph.sum(name, axes), share)


@rule("BatchNormalization")
def _batch_normalization(ctx: Context) -> dict[int, str]:
    """Gradient of scale·(x − mean)/√(variance + ε) + bias: g·scale/√(variance + ε).

    Mean and variance are constants: those of the training.
    """
    graph = ctx.graph
    scale, _, _, variance = ctx.node.input[1:5]
    epsilon = graph.constant(ctx.attribute("epsilon", EPSILON))
    deviation = graph.node("Sqrt", graph.node("Add", variance, epsilon))
    slope = graph.node("Div", scale, deviation)
    return {0: graph.node("Mul", ctx.gradient, _per_channel(graph, slope, ctx.x))}


def _per_channel(graph: Builder, name: str, x: str) -> str:
    """A vector (C,) as (C, 1, …), which broadcasts to `x` (N, C, …)."""
    return graph.node("Reshape", name, graph.integers(-1, *[1] * (len(graph.shape(x)) - 2)))


def layer_normalization(ctx: Context, back: Back = standardised) -> dict[int, str]:
    """Gradient of scale·z + bias, z standardised over the axes from `axis` on.

    See `standardised`.
    """
    graph, rank = ctx.graph, len(ctx.graph.shape(ctx.x))
    axes = range(ctx.attribute("axis", -1) % rank, rank)
    gradient = graph.node("Mul", ctx.gradient, ctx.node.input[1])
    return {0: back(ctx, ctx.x, gradient, axes, graph.size(ctx.x, axes))}


def instance_normalization(ctx: Context, back: Back = standardised) -> dict[int, str]:
    """Gradient of scale·z + bias, z standardised over the pixels of each channel.

    See `standardised`.
    """
    graph = ctx.graph
    gradient = graph.node("Mul", ctx.gradient, _per_channel(graph, ctx.node.input[1], ctx.x))
    axes = range(2, len(graph.shape(ctx.x)))
    return {0: back(ctx, ctx.x, gradient, axes, graph.size(ctx.x, axes))}


def group_normalization(ctx: Context, back: Back = standardised) -> dict[int, str]:
    """Gradient of scale·z + bias, z standardised over channels and pixels of each group.

    See `standardised`.
    """
    graph, rank = ctx.graph, len(ctx.graph.shape(ctx.x))
    groups, channels = ctx.attribute("num_groups"), graph.size(ctx.x, (1,))
    scale = ctx.node.input[1]
    if graph.shape(scale) != (channels,):  # before opset 21 scale has one number for each group
        column = graph.node("Reshape", scale, graph.integers(groups, 1))
        repeated = graph.node("Expand", column, graph.integers(groups, channels // groups))
        scale = graph.node("Reshape", repeated, graph.integers(channels))
    gradient = graph.node("Mul", ctx.gradient, _per_channel(graph, scale, ctx.x))
    size = channels // groups * graph.size(ctx.x, range(2, rank))
    rows = graph.integers(-1, groups, size)
    x, gradient = (graph.node("Reshape", name, rows) for name in (ctx.x, gradient))
    return {0: graph.like(back(ctx, x, gradient, (2,), size), ctx.x)}


rule("LayerNormalization")(layer_normalization)
rule("InstanceNormalization")(instance_normalization)
rule("GroupNormalization")(group_normalization)


@rule("LpNormalization")
def _lp_normalization(ctx: Context) -> dict[int, str]:
    """Gradient of x/‖x‖₂: (g − y·Σ g·y)/‖x‖₂; not a number where x = 0, as y is there."""
    if ctx.attribute("p", 2) != 2:  # noqa: PLR2004
        raise ctx.unsupported("only p = 2 can be differentiated")
    graph, axis = ctx.graph, ctx.attribute("axis", -1)
    inner = graph.sum(graph.node("Mul", ctx.gradient, ctx.y), (axis,))
    norm = graph.node("Sqrt", graph.sum(graph.node("Mul", ctx.x, ctx.x), (axis,)))
    tangent = graph.node("Sub", ctx.gradient, graph.node("Mul", ctx.y, inner))
    return {0: graph.node("Div", tangent, norm)}


@rule("LRN")
def _local_response_normalization(ctx: Context) -> dict[int, str]:
    """Gradient of x·d^(−β) with d = bias + α/n·Σ x² over n channels around each.

    g·d^(−β) − 2αβ/n·x·Σ g·x·d^(−β−1); the sum is over the channels that have this one in their d.
    The forward pass is of Krizhevsky, Sutskever and Hinton, NeurIPS 2012, section 3.3.
    """
    graph, size = ctx.graph, ctx.attribute("size")
    alpha, beta = ctx.attribute("alpha", 1e-4), ctx.attribute("beta", 0.75)
    band = _band(graph.size(ctx.x, (1,)), size)
    squares = graph.node("Conv", graph.node("Mul", ctx.x, ctx.x), graph.constant(band))
    scaled = graph.node("Mul", squares, alpha / size)
    d = graph.node("Add", scaled, ctx.attribute("bias", 1.0))
    direct = graph.node("Mul", ctx.gradient, graph.node("Pow", d, -beta))
    weighted = graph.node("Mul", ctx.gradient, ctx.x)
    inner = graph.node("Mul", weighted, graph.node("Pow", d, -beta - 1))
    transposed = np.ascontiguousarray(band.transpose(1, 0, 2, 3))
    spread = graph.node("Conv", inner, graph.constant(transposed))
    indirect = graph.node("Mul", graph.node("Mul", ctx.x, spread), 2 * alpha * beta / size)
    return {0: graph.node("Sub", direct, indirect)}


def _band(channels: int, size: int) -> Float32[np.ndarray, "channels channels 1 1"]:
    """The 1×1 convolution that sums `size` channels around each."""
    offset = np.arange(channels)[None] - np.arange(channels)[:, None]
    inside = (offset >= -((size - 1) // 2)) & (offset <= size // 2)
    return inside.astype(np.float32)[:, :, None, None]
