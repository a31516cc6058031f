"""Operators that move elements: g moves back, and sums where an element was used several times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule
from training.autodiff.rules.index import SCATTER_ADDS


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(ctx: Context) -> dict[int, str]:
    """Gradient of a change of shape: g in the shape of x."""
    return {0: ctx.graph.like(ctx.gradient, ctx.x)}


@rule("Transpose")
def _transpose(ctx: Context) -> dict[int, str]:
    """Gradient of a permutation of axes: g by the inverse permutation."""
    order = ctx.attribute("perm") or list(reversed(range(len(ctx.graph.shape(ctx.x)))))
    inverse = [int(axis) for axis in np.argsort(order)]
    return {0: ctx.graph.node("Transpose", ctx.gradient, perm=inverse)}


@rule("Expand")
def _expand(ctx: Context) -> dict[int, str]:
    """Gradient of a broadcast: g summed over the axes along which x was repeated."""
    return {0: ctx.graph.unbroadcast(ctx.gradient, ctx.x, ctx.y)}


@rule("Tile")
def _tile(ctx: Context) -> dict[int, str]:
    """Gradient of x repeated along its axes: the sum of the copies of g."""
    graph, repeats = ctx.graph, ctx.constant_input(1)
    assert repeats is not None
    gradient, rank = ctx.gradient, len(repeats)
    for axis, repeat in enumerate(int(value) for value in repeats):
        if repeat > 1:
            copies = np.tile(np.eye(graph.size(ctx.x, (axis,))), (repeat, 1))
            gradient = _matmul_along(graph, gradient, axis, rank, copies)
    return {0: gradient}


@rule("Concat")
def _concat(ctx: Context) -> dict[int, str]:
    """Gradient of each input: its part of g."""
    graph = ctx.graph
    axis = ctx.attribute("axis") % len(graph.shape(ctx.y))
    if any(graph.shape(name)[axis] is None for name in ctx.node.input):
        return dict(enumerate(_parted(ctx, axis)))
    gradients, start = {}, 0
    for index, name in enumerate(ctx.node.input):
        end = start + graph.size(name, (axis,))
        if ctx.needs_gradient[index]:
            gradients[index] = _slice(graph, ctx.gradient, axis, start, end)
        start = end
    return gradients


def _parted(ctx: Context, axis: int) -> tuple[str, ...]:
    """The parts of g along an axis of free sizes, as an image beside its mirror image has it."""
    graph, names = ctx.graph, ctx.node.input
    sizes = [
        graph.node("Gather", graph.node("Shape", name), graph.integers(axis)) for name in names
    ]
    split = graph.node("Concat", *sizes, axis=0)
    return graph.nodes("Split", ctx.gradient, split, outputs=len(names), axis=axis)


@rule("Split")
def _split(ctx: Context) -> dict[int, str]:
    """Gradient of x cut into parts: the gradients of the parts, 0 for a part without one."""
    graph = ctx.graph
    parts = [
        gradient or graph.zeros_like(name)
        for gradient, name in zip(ctx.gradients, ctx.node.output, strict=True)
    ]
    return {0: graph.node("Concat", *parts, axis=ctx.attribute("axis", 0))}


@rule("Slice")
def _slice_rule(ctx: Context) -> dict[int, str]:
    """Gradient of a slice: g at its place, 0 elsewhere."""
    graph, shape = ctx.graph, ctx.graph.shape(ctx.x)
    starts, ends, axes, steps = (ctx.constant_input(index) for index in range(1, 5))
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes % len(shape)
    steps = np.ones_like(starts) if steps is None else steps
    gradient = ctx.gradient
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if shape[axis] is None:
            raise ctx.unsupported("it cuts the batch")
        size = graph.size(ctx.x, (int(axis),))
        indices = np.arange(size)[slice(int(start), _python_end(int(end), size), int(step))]
        gradient = _scatter(graph, gradient, int(axis), len(shape), indices, size)
    return {0: gradient}


def _python_end(end: int, size: int) -> int | None:
    """The end of a slice as Python writes it."""
    # Backwards up to and with the first element is a very negative end in ONNX, None in Python.
    return None if end < -size else end


@rule("Gather")
def _gather(ctx: Context) -> dict[int, str]:
    """Gradient of x[indices]: g added up at the indices."""
    graph, shape = ctx.graph, ctx.graph.shape(ctx.x)
    axis = ctx.attribute("axis", 0) % len(shape)
    if ctx.needs_gradient[1]:
        raise ctx.unsupported("its indices depend on the image")
    indices = graph.value(ctx.node.input[1])
    if indices is None:
        return {0: _scatter_rows(ctx, axis)}
    size, gradient = graph.size(ctx.x, (axis,)), ctx.gradient
    if indices.ndim != 1:
        flat = [*shape[:axis], indices.size, *shape[axis + 1 :]]
        sizes = graph.integers(*(-1 if n is None else n for n in flat))
        gradient = graph.node("Reshape", gradient, sizes)
    return {0: _scatter(graph, gradient, axis, len(shape), indices.reshape(-1) % size, size)}


def _scatter_rows(ctx: Context, axis: int) -> str:
    """The gradient of x[indices] for indices that are computed at run time, on the first axis."""
    graph = ctx.graph
    if axis or graph.opset < SCATTER_ADDS:
        raise ctx.unsupported(
            f"its indices are computed at run time, along axis {axis}, in opset {graph.opset}"
        )
    places = graph.node("Unsqueeze", ctx.node.input[1], graph.integers(-1))
    zeros = graph.zeros_like(ctx.x)
    return graph.node("ScatterND", zeros, places, ctx.gradient, reduction="add")


@rule("Pad")
def _pad(ctx: Context) -> dict[int, str]:
    """Gradient of x with a border: the middle of g.

    Where the border repeats or mirrors elements of x, its part of g is added to theirs.
    """
    graph, rank = ctx.graph, len(ctx.graph.shape(ctx.x))
    pads, axes = ctx.constant_input(1), ctx.constant_input(3)
    assert pads is not None
    axes = np.arange(rank) if axes is None else axes % rank
    mode, gradient = ctx.attribute("mode", "constant"), ctx.gradient
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            size = graph.size(ctx.x, (int(axis),))
            source = _source(size, int(before), int(after), mode)
            gradient = _unpad(graph, gradient, int(axis), rank, source, size)
    return {0: gradient}


def _source(size: int, before: int, after: int, mode: str) -> Int[np.ndarray, " padded"]:
    """The index in x of each element of a padded axis; −1 for an element that is not of x."""
    cropped = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
    widths = max(before, 0), max(after, 0)
    if mode == "constant":
        return np.pad(cropped, widths, constant_values=-1)
    modes: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return np.asarray(np.pad(cropped, widths, mode=modes[mode]))


def _unpad(
    graph: Builder,
    gradient: str,
    axis: int,
    rank: int,
    source: Int[np.ndarray, " padded"],
    size: int,
) -> str:
    """`gradient` of a padded axis, added up at the indices `source` of an axis of `size`."""
    inside = np.flatnonzero(source >= 0)
    if len(inside) < len(source):
        gradient = _slice(graph, gradient, axis, int(inside[0]), int(inside[-1]) + 1)
    return _scatter(graph, gradient, axis, rank, source[inside], size)


@rule("Trilu")
def _triangle(ctx: Context) -> dict[int, str]:
    """Gradient of a triangle of x: the same triangle of g."""
    inputs = ctx.gradient, *ctx.node.input[1:]
    return {0: ctx.graph.node("Trilu", *inputs, upper=ctx.attribute("upper", 1))}


@rule("DepthToSpace")
def _depth_to_space(ctx: Context) -> dict[int, str]:
    """Gradient of channels moved to pixels: g moved back."""
    graph, block = ctx.graph, ctx.attribute("blocksize")
    if ctx.attribute("mode", "DCR") == "DCR":
        return {0: graph.node("SpaceToDepth", ctx.gradient, blocksize=block)}
    # SpaceToDepth knows no mode CRD.
    channels, height, width = (graph.size(ctx.x, (axis,)) for axis in (1, 2, 3))
    sizes = graph.integers(-1, channels // block**2, height, block, width, block)
    split = graph.node("Reshape", ctx.gradient, sizes)
    return {0: graph.like(graph.node("Transpose", split, perm=[0, 1, 3, 5, 2, 4]), ctx.x)}


@rule("SpaceToDepth")
def _space_to_depth(ctx: Context) -> dict[int, str]:
    """Gradient of pixels moved to channels: g moved back."""
    attributes = {"blocksize": ctx.attribute("blocksize"), "mode": "DCR"}
    return {0: ctx.graph.node("DepthToSpace", ctx.gradient, **attributes)}


@rule("Resize", "Upsample")
def _resize(ctx: Context) -> dict[int, str]:
    """Gradient of M·x, where M interpolates along an axis: Mᵀ·g, axis by axis."""
    graph = ctx.graph
    before, after = graph.shape(ctx.x), graph.shape(ctx.y)
    gradient = ctx.gradient
    for axis, (source, target) in enumerate(zip(before, after, strict=True)):
        if source == target:
            continue
        if source is None or target is None:
            raise ctx.unsupported("its new size is not known when the graph is made")
        matrix = _interpolation(ctx, source, target)
        gradient = _matmul_along(graph, gradient, axis, len(before), matrix)
    return {0: gradient}


def _interpolation(ctx: Context, source: int, target: int) -> Float[np.ndarray, "target source"]:
    """The matrix that resizes one axis: ONNX's reference applied to the unit vectors."""
    names = (
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "mode",
        "nearest_mode",
        "antialias",
    )
    attributes = {name: ctx.attribute(name) for name in names if ctx.attribute(name) is not None}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [source, source])
    sizes = helper.make_tensor_value_info("sizes", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "resize", [x, sizes], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ctx.graph.opset)])
    feeds = {"x": np.eye(source), "sizes": np.array([source, target])}
    (resized,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(resized).T


def _slice(graph: Builder, name: str, axis: int, start: int, end: int) -> str:
    bounds = graph.integers(start), graph.integers(end), graph.integers(axis)
    return graph.node("Slice", name, *bounds)


def _scatter(
    graph: Builder,
    gradient: str,
    axis: int,
    rank: int,
    indices: Int[np.ndarray, " count"],
    size: int,
) -> str:
    """`gradient` added up along `axis` at `indices` of an axis of `size` elements."""
    count = len(indices)
    if count == size and np.array_equal(indices, np.arange(size)):
        return gradient
    # Pad and Gather only move; MatMul is for indices that repeat or leave gaps.
    if np.array_equal(indices, np.arange(indices[0], indices[0] + count)):
        pads = np.zeros((2, rank), np.int64)
        pads[:, axis] = indices[0], size - indices[-1] - 1
        return graph.node("Pad", gradient, graph.constant(pads.reshape(-1)))
    if sorted(indices) == list(range(size)):
        return graph.node("Gather", gradient, graph.constant(np.argsort(indices)), axis=axis)
    return _matmul_along(graph, gradient, axis, rank, np.eye(size)[indices])


def _matmul_along(
    graph: Builder, gradient: str, axis: int, rank: int, matrix: Float[np.ndarray, "given result"]
) -> str:
    """`gradient` times `matrix` along `axis`."""
    order = _swapped(axis, rank)
    last = graph.node("Transpose", gradient, perm=order)
    result = graph.node("MatMul", last, graph.constant(matrix.astype(np.float32)))
    return graph.node("Transpose", result, perm=order)


def _swapped(axis: int, rank: int) -> Sequence[int]:
    """The axes in order, but for `axis` and the last, which change places."""
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    return order
