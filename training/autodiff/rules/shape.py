"""Operators that move elements: what goes back is moved back, and summed where an element was used several times."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from training.autodiff.graph import Call, Graph, rule

SCATTER_ADDS = 16  # the opset since which ScatterND can add


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(call: Call) -> dict[int, str]:
    """G in the shape of x."""
    return {0: call.graph.like(call.gradient, call.x)}


@rule("Transpose")
def _transpose(call: Call) -> dict[int, str]:
    """G with its axes put back."""
    rank = len(call.graph.shape(call.x))
    order = call.attribute("perm") or list(reversed(range(rank)))
    return {
        0: call.graph.node(
            "Transpose", call.gradient, perm=[int(axis) for axis in np.argsort(order)]
        )
    }


@rule("Expand")
def _expand(call: Call) -> dict[int, str]:
    """G summed over what was expanded."""
    return {0: call.graph.unbroadcast(call.gradient, call.x, call.y)}


@rule("Tile")
def _tile(call: Call) -> dict[int, str]:
    """G cut into its copies, summed."""
    graph, repeats = call.graph, call.constant_input(1)
    assert repeats is not None
    gradient = call.gradient
    for axis, repeat in enumerate(int(value) for value in repeats):
        if repeat > 1:
            size = graph.size(call.x, (axis,))
            gradient = _along_last(
                graph, gradient, axis, len(repeats), np.tile(np.eye(size), (repeat, 1))
            )
    return {0: gradient}


@rule("Concat")
def _concat(call: Call) -> dict[int, str]:
    """The part of g that each input gave."""
    graph = call.graph
    axis = call.attribute("axis") % len(graph.shape(call.y))
    gradients, start = {}, 0
    for index, name in enumerate(call.node.input):
        end = start + graph.size(name, (axis,))
        if call.wanted[index]:
            gradients[index] = _slice(graph, call.gradient, axis, start, end)
        start = end
    return gradients


@rule("Split")
def _split(call: Call) -> dict[int, str]:
    """The gradients of the parts, put together; zeros where a part is not used."""
    graph = call.graph
    parts = [
        g or graph.zeros_like(name)
        for g, name in zip(call.gradients, call.node.output, strict=True)
    ]
    return {0: graph.node("Concat", *parts, axis=call.attribute("axis", 0))}


@rule("Slice")
def _slice_rule(call: Call) -> dict[int, str]:
    """G at its place, zeros elsewhere."""
    graph, shape = call.graph, call.graph.shape(call.x)
    starts, ends, axes, steps = (call.constant_input(index) for index in range(1, 5))
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes % len(shape)
    steps = np.ones_like(starts) if steps is None else steps
    gradient = call.gradient
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if shape[axis] is None:
            raise call.unsupported("it cuts the batch")
        size = graph.size(call.x, (int(axis),))
        indices = np.arange(size)[slice(int(start), _end(int(end), size), int(step))]
        gradient = _scatter(graph, gradient, int(axis), len(shape), indices, size)
    return {0: gradient}


def _end(end: int, size: int) -> int | None:
    """ONNX writes "up to and with the first element, backwards" as a very negative end, Python as None."""
    return None if end < -size else end


@rule("Gather")
def _gather(call: Call) -> dict[int, str]:
    """G added up at the places it was taken from; the places must be known when the graph is made."""
    graph, shape = call.graph, call.graph.shape(call.x)
    axis = call.attribute("axis", 0) % len(shape)
    if call.wanted[1]:
        raise call.unsupported("its indices depend on the image")
    indices = graph.value(call.node.input[1])
    if indices is None:
        return {0: _scatter_rows(call, axis)}
    size = graph.size(call.x, (axis,))
    flat = [*shape[:axis], indices.size, *shape[axis + 1 :]]
    gradient = call.gradient
    if indices.ndim != 1:
        gradient = graph.node(
            "Reshape", gradient, graph.integers(*(-1 if n is None else n for n in flat))
        )
    return {0: _scatter(graph, gradient, axis, len(shape), indices.reshape(-1) % size, size)}


def _scatter_rows(call: Call, axis: int) -> str:
    """The same for places that are computed at run time, along the first axis."""
    if axis or call.graph.opset < SCATTER_ADDS:
        raise call.unsupported(
            f"its indices are computed at run time, along axis {axis}, in opset {call.graph.opset}"
        )
    places = call.graph.node("Unsqueeze", call.node.input[1], call.graph.integers(-1))
    return call.graph.node(
        "ScatterND", call.graph.zeros_like(call.x), places, call.gradient, reduction="add"
    )


@rule("Pad")
def _pad(call: Call) -> dict[int, str]:
    """The middle of g; with mirrored or repeated borders, what fell on them is added."""
    graph, rank = call.graph, len(call.graph.shape(call.x))
    pads, axes = call.constant_input(1), call.constant_input(3)
    assert pads is not None
    axes = np.arange(rank) if axes is None else axes % rank
    mode, gradient = call.attribute("mode", "constant"), call.gradient
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            size = graph.size(call.x, (int(axis),))
            gradient = _unpad(
                graph, gradient, int(axis), rank, _source(size, int(before), int(after), mode), size
            )
    return {0: gradient}


def _source(size: int, before: int, after: int, mode: str) -> Int[np.ndarray, " padded"]:
    """Which element of the input each element of a padded axis shows; −1 = none."""
    cropped = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
    widths = max(before, 0), max(after, 0)
    if mode == "constant":
        return np.pad(cropped, widths, constant_values=-1)
    modes: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return np.asarray(np.pad(cropped, widths, mode=modes[mode]))


def _unpad(
    graph: Graph, gradient: str, axis: int, rank: int, source: Int[np.ndarray, " padded"], size: int
) -> str:
    shown = np.flatnonzero(source >= 0)
    if len(shown) < len(source):
        gradient = _slice(graph, gradient, axis, int(shown[0]), int(shown[-1]) + 1)
    return _scatter(graph, gradient, axis, rank, source[shown], size)


@rule("DepthToSpace")
def _depth_to_space(call: Call) -> dict[int, str]:
    """G by SpaceToDepth; in CRD order by reshaping."""
    graph, block = call.graph, call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "DCR":
        return {0: graph.node("SpaceToDepth", call.gradient, blocksize=block)}
    _, channels, height, width = graph.shape(call.x)
    assert channels is not None
    split = graph.node(
        "Reshape",
        call.gradient,
        graph.integers(-1, channels // block**2, height or 0, block, width or 0, block),
    )
    return {0: graph.like(graph.node("Transpose", split, perm=[0, 1, 3, 5, 2, 4]), call.x)}


@rule("SpaceToDepth")
def _space_to_depth(call: Call) -> dict[int, str]:
    """G by DepthToSpace."""
    return {
        0: call.graph.node(
            "DepthToSpace", call.gradient, blocksize=call.attribute("blocksize"), mode="DCR"
        )
    }


@rule("Resize", "Upsample")
def _resize(call: Call) -> dict[int, str]:
    """Interpolation is a matrix for each axis: g times its transpose."""
    graph = call.graph
    before, after = graph.shape(call.x), graph.shape(call.y)
    gradient = call.gradient
    for axis, (small, large) in enumerate(zip(before, after, strict=True)):
        if small == large:
            continue
        if small is None or large is None:
            raise call.unsupported(
                "it resizes by an amount that is not known when the graph is made"
            )
        gradient = _along_last(
            graph, gradient, axis, len(before), _interpolation(call, small, large)
        )
    return {0: gradient}


def _interpolation(call: Call, small: int, large: int) -> Float[np.ndarray, "large small"]:
    """The matrix that resizes one axis: what the operator's reference makes of the unit vectors."""
    keep = (
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "mode",
        "nearest_mode",
        "antialias",
    )
    attributes = {name: call.attribute(name) for name in keep if call.attribute(name) is not None}
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [
            helper.make_tensor_value_info("x", TensorProto.DOUBLE, [small, small]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.graph.opset)])
    resized, *_ = ReferenceEvaluator(model).run(
        None, {"x": np.eye(small), "sizes": np.array([small, large])}
    )
    return np.asarray(resized).T


def _slice(graph: Graph, name: str, axis: int, start: int, end: int) -> str:
    return graph.node(
        "Slice", name, graph.integers(start), graph.integers(end), graph.integers(axis)
    )


def _scatter(
    graph: Graph, gradient: str, axis: int, rank: int, indices: Int[np.ndarray, " count"], size: int
) -> str:
    """`gradient` added up along `axis` at `indices` of an axis of `size` elements."""
    count = len(indices)
    if count == size and np.array_equal(indices, np.arange(size)):
        return gradient
    if np.array_equal(indices, np.arange(indices[0], indices[0] + count)):
        pads = np.zeros((2, rank), np.int64)
        pads[:, axis] = indices[0], size - indices[-1] - 1
        return graph.node("Pad", gradient, graph.constant(pads.reshape(-1)))
    if sorted(indices) == list(range(size)):
        return graph.node("Gather", gradient, graph.constant(np.argsort(indices)), axis=axis)
    return _along_last(graph, gradient, axis, rank, np.eye(size)[indices])


def _along_last(
    graph: Graph, gradient: str, axis: int, rank: int, matrix: Float[np.ndarray, "given wanted"]
) -> str:
    """`gradient` times `matrix` along `axis`."""
    order = _swapped(axis, rank)
    turned = graph.node("Transpose", gradient, perm=order)
    product = graph.node("MatMul", turned, graph.constant(matrix.astype(np.float32)))
    return graph.node("Transpose", product, perm=order)


def _swapped(axis: int, rank: int) -> Sequence[int]:
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    return order
