"""Pools."""

from itertools import product

import numpy as np
from jaxtyping import Float

from training.autodiff.graph import Call, Graph, rule
from training.autodiff.rules.convolution import Windows, full_pads, interleaved


@rule("MaxPool")
def _max_pool(call: Call) -> dict[int, str]:
    """G to the first element of each window that equals y, as in torch.

    x is seen through one strided slice for each place in the window: where the slice equals y and none before it did, it takes g.
    The slices are interleaved again. No scatter and no MaxUnpool: those have no kernel on a GPU.
    """
    if len(call.gradients) > 1 and call.gradients[1] is not None:
        raise call.unsupported("its indices are used")
    graph, kernel = call.graph, call.attribute("kernel_shape")
    windows = Windows.of(call, kernel)
    counts = [graph.size(call.y, (axis + 2,)) for axis in range(len(kernel))]
    padded = _framed(graph, call.x, windows, float("-inf"))
    taken: list[str] = []
    planes: dict[tuple[int, ...], list[str]] = {}
    cells = [_cells(windows, counts, axis) for axis in range(len(kernel))]
    for place in product(*(range(k) for k in kernel)):
        offsets = [i * d for i, d in zip(place, windows.dilations, strict=True)]
        seen = _strided(graph, padded, offsets, windows, counts)
        chosen, taken = _first(graph, graph.node("Equal", seen, call.y), taken)
        share = graph.node("Where", chosen, call.gradient, graph.constant(0.0))
        phase = tuple(o % s for o, s in zip(offsets, windows.strides, strict=True))
        shift = [o // s for o, s in zip(offsets, windows.strides, strict=True)]
        planes.setdefault(phase, []).append(_shifted(graph, share, shift, counts, cells))
    return {0: _unframed(graph, _woven(graph, planes, windows, cells, call.x), call.x, windows)}


def _first(graph: Graph, equal: str, taken: list[str]) -> tuple[str, list[str]]:
    """Where `equal` and nothing is taken yet; and what is taken now."""
    if not taken:
        return equal, [equal]
    free = graph.node("Not", taken[0])
    return graph.node("And", equal, free), [graph.node("Or", equal, taken[0])]


def _cells(windows: Windows, counts: list[int], axis: int) -> int:
    """How many strides cover all windows along `axis`."""
    reach = (
        (counts[axis] - 1) * windows.strides[axis]
        + (windows.kernel[axis] - 1) * windows.dilations[axis]
        + 1
    )
    return -(-reach // windows.strides[axis])


def _framed(graph: Graph, x: str, windows: Windows, value: float) -> str:
    """`x` with the padding of `windows` around it."""
    after = [max(pad, 0) for pad in windows.after]
    if not any((*windows.before, *after)):
        return x
    return graph.node(
        "Pad", x, graph.integers(0, 0, *windows.before, 0, 0, *after), graph.constant(value)
    )


def _strided(graph: Graph, x: str, offsets: list[int], windows: Windows, counts: list[int]) -> str:
    ends = [o + (n - 1) * s + 1 for o, n, s in zip(offsets, counts, windows.strides, strict=True)]
    axes = range(2, 2 + len(offsets))
    return graph.node(
        "Slice", x, *(graph.integers(*values) for values in (offsets, ends, axes, windows.strides))
    )


def _shifted(graph: Graph, name: str, shift: list[int], counts: list[int], cells: list[int]) -> str:
    """`name` moved by whole strides into a plane of `cells`."""
    after = [m - n - q for m, n, q in zip(cells, counts, shift, strict=True)]
    if not any((*shift, *after)):
        return name
    return graph.node("Pad", name, graph.integers(0, 0, *shift, 0, 0, *after))


def _woven(
    graph: Graph,
    planes: dict[tuple[int, ...], list[str]],
    windows: Windows,
    cells: list[int],
    x: str,
) -> str:
    """The sums of the planes of each phase, woven into one tensor of cells × strides elements along each axis."""
    sums = {phase: _sum(graph, parts) for phase, parts in planes.items()}
    channels = graph.size(x, (1,))
    if set(windows.strides) == {1}:
        return sums[(0,) * len(cells)]
    zero = ""
    if len(sums) < np.prod(windows.strides):
        zero = graph.node("Mul", next(iter(sums.values())), graph.constant(0.0))
    phases = [sums.get(phase, zero) for phase in product(*(range(s) for s in windows.strides))]
    return interleaved(
        graph, graph.node("Concat", *phases, axis=1), windows.strides, channels, cells
    )


def _sum(graph: Graph, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else graph.node("Sum", *parts)


def _unframed(graph: Graph, name: str, x: str, windows: Windows) -> str:
    """The part of `name`, which begins where the windows do, that lies on `x`; zeros where no window reached."""
    axes = list(range(2, 2 + len(windows.kernel)))
    sizes = [graph.size(x, (axis,)) for axis in axes]
    covered = [_cells_size(windows, size, axis) for axis, size in enumerate(sizes)]
    ends = [before + size for before, size in zip(windows.before, sizes, strict=True)]
    short = [max(end - c, 0) for end, c in zip(ends, covered, strict=True)]
    if any(short):
        name = graph.node("Pad", name, graph.integers(0, 0, *([0] * len(axes)), 0, 0, *short))
    if list(windows.before) == [0] * len(axes) and ends == [
        c + s for c, s in zip(covered, short, strict=True)
    ]:
        return name
    return graph.node(
        "Slice", name, graph.integers(*windows.before), graph.integers(*ends), graph.integers(*axes)
    )


def _cells_size(windows: Windows, size: int, axis: int) -> int:
    reach = size + windows.before[axis] + windows.after[axis]
    return -(-reach // windows.strides[axis]) * windows.strides[axis]


@rule("AveragePool")
def _average_pool(call: Call) -> dict[int, str]:
    """G / (elements in the window) to each of them: with stride 1 an average pool again, else a transposed convolution with ones."""
    graph, kernel = call.graph, call.attribute("kernel_shape")
    windows = Windows.of(call, kernel)
    if (
        set(windows.strides) | set(windows.dilations) == {1}
        and min(pads := full_pads(windows)) >= 0
    ):
        shares = float(np.prod(kernel)) / _window_sizes(call, windows)
        g = (
            call.gradient
            if (shares == 1).all()
            else graph.node("Mul", call.gradient, graph.constant(shares))
        )
        return {
            0: graph.node("AveragePool", g, kernel_shape=kernel, pads=pads, count_include_pad=1)
        }
    spatial = [graph.size(call.y, (axis + 2,)) for axis in range(len(kernel))]
    share = graph.node("Mul", call.gradient, graph.constant(1 / _window_sizes(call, windows)))
    single = graph.node("Reshape", share, graph.integers(-1, 1, *spatial))
    ones = graph.constant(np.ones((1, 1, *kernel), np.float32))
    return {
        0: graph.like(
            graph.node("ConvTranspose", single, ones, kernel_shape=kernel, **windows.transposed),
            call.x,
        )
    }


def _window_sizes(call: Call, windows: Windows) -> Float[np.ndarray, "..."]:
    """How many elements each window averages: those in the image, or in its padding too; never beyond."""
    include = call.attribute("count_include_pad", 0)
    pads = call.attribute("pads") or [0] * 2 * len(windows.kernel)
    total = np.ones(())
    for axis, k in enumerate(windows.kernel):
        size, count = call.graph.size(call.x, (axis + 2,)), call.graph.size(call.y, (axis + 2,))
        low, high = (
            (-windows.before[axis], size + pads[len(windows.kernel) + axis])
            if include
            else (0, size)
        )
        starts = np.arange(count) * windows.strides[axis] - windows.before[axis]
        places = starts[:, None] + np.arange(k) * windows.dilations[axis]
        total = np.multiply.outer(total, ((places >= low) & (places < high)).sum(1))
    return total


@rule("GlobalAveragePool")
def _global_average_pool(call: Call) -> dict[int, str]:
    """G / n to each of n elements."""
    graph = call.graph
    share = graph.constant(1 / graph.size(call.x, range(2, len(graph.shape(call.x)))))
    return {
        0: graph.node(
            "Expand", graph.node("Mul", call.gradient, share), graph.run_time_shape(call.x)
        )
    }


@rule("GlobalMaxPool")
def _global_max_pool(call: Call) -> dict[int, str]:
    """G to the element that equals y, shared by several that do."""
    graph = call.graph
    mask = graph.node(
        "Where", graph.node("Equal", call.x, call.y), graph.constant(1.0), graph.constant(0.0)
    )
    share = graph.node("Div", call.gradient, graph.sum(mask, range(2, len(graph.shape(call.x)))))
    return {0: graph.node("Mul", mask, share)}
