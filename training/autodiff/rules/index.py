"""Operators that read or write elements at indices: g goes back to the places it came from.

Indices may be computed at run time, but have no gradient of their own.
"""

from typing import Any

from training.autodiff.registry import Context, rule

SCATTER_ADDS = 16  # the opset since which ScatterND and ScatterElements can add


def _check(ctx: Context) -> None:
    if ctx.needs_gradient[1]:
        raise ctx.unsupported("its indices depend on the image")
    if ctx.graph.opset < SCATTER_ADDS:
        raise ctx.unsupported(f"its gradient needs opset {SCATTER_ADDS} or newer")


@rule("GatherElements")
def _gather_elements(ctx: Context) -> dict[int, str]:
    """Gradient of the elements of x at indices along an axis: g added up at the indices."""
    _check(ctx)
    zeros, indices = ctx.graph.zeros_like(ctx.x), ctx.node.input[1]
    attributes: dict[str, Any] = {"axis": ctx.attribute("axis", 0), "reduction": "add"}
    return {0: ctx.graph.node("ScatterElements", zeros, indices, ctx.gradient, **attributes)}


@rule("GatherND")
def _gather_nd(ctx: Context) -> dict[int, str]:
    """Gradient of the parts of x at tuples of indices: g added up at the tuples."""
    _check(ctx)
    if ctx.attribute("batch_dims", 0):
        raise ctx.unsupported("it has batch_dims")
    zeros, indices = ctx.graph.zeros_like(ctx.x), ctx.node.input[1]
    return {0: ctx.graph.node("ScatterND", zeros, indices, ctx.gradient, reduction="add")}


@rule("ScatterElements")
def _scatter_elements(ctx: Context) -> dict[int, str]:
    """Gradients of x with elements replaced, or added to: see `_scattered`."""
    axis = ctx.attribute("axis", 0)
    return _scattered(ctx, "ScatterElements", "GatherElements", axis=axis)


@rule("ScatterND")
def _scatter_nd(ctx: Context) -> dict[int, str]:
    """Gradients of x with parts replaced, or added to: see `_scattered`."""
    return _scattered(ctx, "ScatterND", "GatherND")


def _scattered(ctx: Context, scatter: str, gather: str, **attributes: Any) -> dict[int, str]:
    """Gradient of x: g, 0 where it was replaced. Gradient of the updates: g at their places."""
    graph, (_, indices, updates) = ctx.graph, ctx.node.input
    reduction = ctx.attribute("reduction", "none")
    if ctx.needs_gradient[1] or reduction not in ("none", "add"):
        raise ctx.unsupported(f"its reduction is {reduction}, or its indices depend on the image")
    gradients = {0: ctx.gradient}
    if reduction == "none" and ctx.needs_gradient[0]:
        zeros = graph.zeros_like(updates)
        gradients[0] = graph.node(scatter, ctx.gradient, indices, zeros, **attributes)
    if ctx.needs_gradient[2]:
        gradients[2] = graph.node(gather, ctx.gradient, indices, **attributes)
    return gradients


@rule("TopK")
def _top_k(ctx: Context) -> dict[int, str]:
    """Gradient of the k largest or smallest values: g at their places, 0 elsewhere."""
    graph, node = ctx.graph, ctx.node
    if not node.output[1]:
        node.output[1] = f"{node.output[0]}/places"
    zeros, axis = graph.zeros_like(ctx.x), ctx.attribute("axis", -1)
    return {0: graph.node("ScatterElements", zeros, node.output[1], ctx.gradient, axis=axis)}
