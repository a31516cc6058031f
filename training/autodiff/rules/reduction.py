"""Reductions over axes, and softmax."""

import numpy as np

from training.autodiff.graph import Call, rule


def _axes(call: Call) -> tuple[int, ...] | None:
    """The axes reduced, from the attribute or from the input (opset 18); None = nothing is reduced."""
    rank = len(call.graph.shape(call.x))
    given = call.attribute("axes")
    if given is None:
        given = call.constant_input(1)
    if given is None or not len(given):
        return None if call.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in np.asarray(given)))


def _kept(call: Call, name: str, axes: tuple[int, ...]) -> str:
    """`name`, shaped like y, with the reduced axes as ones."""
    if call.attribute("keepdims", 1):
        return name
    return call.graph.node("Unsqueeze", name, call.graph.integers(*axes))


def _spread(call: Call, gradient: str) -> str:
    """`gradient` repeated in the shape of x."""
    return call.graph.node("Expand", gradient, call.graph.run_time_shape(call.x))


@rule("ReduceSum")
def _sum(call: Call) -> dict[int, str]:
    """G to each element."""
    axes = _axes(call)
    return {0: call.gradient if axes is None else _spread(call, _kept(call, call.gradient, axes))}


@rule("ReduceMean")
def _mean(call: Call) -> dict[int, str]:
    """G / n to each of n elements."""
    axes = _axes(call)
    if axes is None:
        return {0: call.gradient}
    share = call.graph.constant(1 / call.graph.size(call.x, axes))
    return {0: _spread(call, call.graph.node("Mul", _kept(call, call.gradient, axes), share))}


@rule("ReduceMax", "ReduceMin")
def _extreme(call: Call) -> dict[int, str]:
    """G to the element that equals y; several that do share it, as torch.amax does."""
    axes, graph = _axes(call), call.graph
    if axes is None:
        return {0: call.gradient}
    equal = graph.node("Equal", call.x, _kept(call, call.y, axes))
    mask = graph.node("Where", equal, graph.constant(1.0), graph.constant(0.0))
    share = graph.node("Div", _kept(call, call.gradient, axes), graph.sum(mask, axes))
    return {0: graph.node("Mul", mask, share)}


@rule("ReduceL1")
def _l1(call: Call) -> dict[int, str]:
    """g·sign(x)."""
    axes = _axes(call) or ()
    return {
        0: call.graph.node("Mul", call.graph.node("Sign", call.x), _kept(call, call.gradient, axes))
    }


@rule("ReduceL2")
def _l2(call: Call) -> dict[int, str]:
    """g·x/y, zero where y is."""
    axes, graph = _axes(call) or (), call.graph
    norm = _kept(call, call.y, axes)
    positive = graph.node("Greater", norm, graph.constant(0.0))
    share = graph.node(
        "Div",
        _kept(call, call.gradient, axes),
        graph.node("Where", positive, norm, graph.constant(1.0)),
    )
    return {0: graph.node("Mul", call.x, share)}


@rule("ReduceSumSquare")
def _sum_square(call: Call) -> dict[int, str]:
    """2·g·x."""
    axes, graph = _axes(call) or (), call.graph
    return {
        0: graph.node(
            "Mul", graph.node("Mul", call.x, graph.constant(2.0)), _kept(call, call.gradient, axes)
        )
    }


@rule("ReduceLogSumExp")
def _log_sum_exp(call: Call) -> dict[int, str]:
    """g·exp(x − y)."""
    axes, graph = _axes(call) or (), call.graph
    share = graph.node("Exp", graph.node("Sub", call.x, _kept(call, call.y, axes)))
    return {0: graph.node("Mul", share, _kept(call, call.gradient, axes))}


@rule("Softmax")
def _softmax(call: Call) -> dict[int, str]:
    """y·(g − Σ g·y)."""
    graph, axis = call.graph, call.attribute("axis", -1)
    inner = graph.sum(graph.node("Mul", call.gradient, call.y), (axis,))
    return {0: graph.node("Mul", call.y, graph.node("Sub", call.gradient, inner))}


@rule("LogSoftmax")
def _log_softmax(call: Call) -> dict[int, str]:
    """G − exp(y)·Σ g."""
    graph, axis = call.graph, call.attribute("axis", -1)
    total = graph.sum(call.gradient, (axis,))
    return {
        0: graph.node("Sub", call.gradient, graph.node("Mul", graph.node("Exp", call.y), total))
    }
