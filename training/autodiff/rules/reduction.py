"""Sums, means, extremes and norms over axes, and softmax."""

import numpy as np

from training.autodiff.registry import Context, rule


def _axes(ctx: Context) -> tuple[int, ...] | None:
    """The reduced axes, from the attribute or (opset 18) the input; None if there are none."""
    rank = len(ctx.graph.shape(ctx.x))
    axes = ctx.attribute("axes")
    if axes is None:
        axes = ctx.constant_input(1)
    if axes is None or not len(axes):
        return None if ctx.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in np.asarray(axes)))


def _keepdims(ctx: Context, name: str, axes: tuple[int, ...]) -> str:
    """`name`, shaped like y, with the reduced axes as axes of length 1."""
    if ctx.attribute("keepdims", 1):
        return name
    return ctx.graph.node("Unsqueeze", name, ctx.graph.integers(*axes))


def _repeated(ctx: Context, gradient: str) -> str:
    """`gradient` repeated to the shape of x."""
    return ctx.graph.node("Expand", gradient, ctx.graph.run_time_shape(ctx.x))


@rule("ReduceSum")
def _sum(ctx: Context) -> dict[int, str]:
    """Gradient of Σ x: g for each element."""
    axes = _axes(ctx)
    if axes is None:
        return {0: ctx.gradient}
    return {0: _repeated(ctx, _keepdims(ctx, ctx.gradient, axes))}


@rule("ReduceMean")
def _mean(ctx: Context) -> dict[int, str]:
    """Gradient of the mean of n elements: g/n for each."""
    axes = _axes(ctx)
    if axes is None:
        return {0: ctx.gradient}
    share = ctx.graph.constant(1 / ctx.graph.size(ctx.x, axes))
    shared = ctx.graph.node("Mul", _keepdims(ctx, ctx.gradient, axes), share)
    return {0: _repeated(ctx, shared)}


@rule("ReduceMax", "ReduceMin")
def _extreme(ctx: Context) -> dict[int, str]:
    """Gradient of the largest or smallest element: g for the element that equals y, else 0.

    Several that equal y share g, as in torch.amax and torch.amin.
    """
    axes, graph = _axes(ctx), ctx.graph
    if axes is None:
        return {0: ctx.gradient}
    equal = graph.node("Equal", ctx.x, _keepdims(ctx, ctx.y, axes))
    mask = graph.node("Where", equal, 1.0, 0.0)
    share = graph.node("Div", _keepdims(ctx, ctx.gradient, axes), graph.sum(mask, axes))
    return {0: graph.node("Mul", mask, share)}


@rule("ReduceL1")
def _l1(ctx: Context) -> dict[int, str]:
    """Gradient of Σ |x|: g·sign(x); so it is 0 at x = 0."""
    axes, sign = _axes(ctx) or (), ctx.graph.node("Sign", ctx.x)
    return {0: ctx.graph.node("Mul", sign, _keepdims(ctx, ctx.gradient, axes))}


@rule("ReduceL2")
def _l2(ctx: Context) -> dict[int, str]:
    """Gradient of √Σ x²: g·x/y; 0 where y = 0, as in torch.linalg.vector_norm."""
    axes, graph = _axes(ctx) or (), ctx.graph
    norm = _keepdims(ctx, ctx.y, axes)
    positive = graph.node("Greater", norm, 0.0)
    gradient = _keepdims(ctx, ctx.gradient, axes)
    # Where y = 0, x is 0 as well: a divisor of 1 makes the quotient 0 instead of 0/0.
    share = graph.node("Div", gradient, graph.node("Where", positive, norm, 1.0))
    return {0: graph.node("Mul", ctx.x, share)}


@rule("ReduceSumSquare")
def _sum_square(ctx: Context) -> dict[int, str]:
    """Gradient of Σ x²: 2·g·x."""
    axes, doubled = _axes(ctx) or (), ctx.graph.node("Mul", ctx.x, 2.0)
    return {0: ctx.graph.node("Mul", doubled, _keepdims(ctx, ctx.gradient, axes))}


@rule("ReduceLogSumExp")
def _log_sum_exp(ctx: Context) -> dict[int, str]:
    """Gradient of log Σ eˣ: g·e^(x − y)."""
    axes, graph = _axes(ctx) or (), ctx.graph
    share = graph.node("Exp", graph.node("Sub", ctx.x, _keepdims(ctx, ctx.y, axes)))
    return {0: graph.node("Mul", share, _keepdims(ctx, ctx.gradient, axes))}


@rule("ReduceProd")
def _product(ctx: Context) -> dict[int, str]:
    """Gradient of Π x: g times the product of the other elements, where elements are 0, too."""
    axes, graph = _axes(ctx) or (), ctx.graph
    is_zero = graph.node("Equal", ctx.x, 0.0)
    mask = graph.node("Where", is_zero, 1.0, 0.0)
    others = graph.node("Where", is_zero, 1.0, ctx.x)
    # The rest of the product without zeros, and whether any other element is a zero.
    inputs, attributes = ctx.node.input[1:], {"keepdims": 1}
    if ctx.attribute("axes") is not None:
        attributes["axes"] = ctx.attribute("axes")
    rest = graph.node("Div", graph.node("ReduceProd", others, *inputs, **attributes), others)
    is_alone = graph.node("Equal", graph.sum(mask, axes), mask)
    share = graph.node("Where", is_alone, rest, 0.0)
    return {0: graph.node("Mul", share, _keepdims(ctx, ctx.gradient, axes))}


@rule("CumSum")
def _running_sum(ctx: Context) -> dict[int, str]:
    """Gradient of the running sum: the running sum of g in the other direction."""
    exclusive, back = ctx.attribute("exclusive", 0), 1 - ctx.attribute("reverse", 0)
    inputs = ctx.gradient, ctx.node.input[1]
    return {0: ctx.graph.node("CumSum", *inputs, exclusive=exclusive, reverse=back)}


@rule("Softmax")
def _softmax(ctx: Context) -> dict[int, str]:
    """Gradient of eˣ/Σ eˣ: y·(g − Σ g·y)."""
    graph, axis = ctx.graph, ctx.attribute("axis", -1)
    inner = graph.sum(graph.node("Mul", ctx.gradient, ctx.y), (axis,))
    return {0: graph.node("Mul", ctx.y, graph.node("Sub", ctx.gradient, inner))}


@rule("LogSoftmax")
def _log_softmax(ctx: Context) -> dict[int, str]:
    """Gradient of x − log Σ eˣ: g − e^y·Σ g."""
    graph, axis = ctx.graph, ctx.attribute("axis", -1)
    total = graph.sum(ctx.gradient, (axis,))
    scaled = graph.node("Mul", graph.node("Exp", ctx.y), total)
    return {0: graph.node("Sub", ctx.gradient, scaled)}
