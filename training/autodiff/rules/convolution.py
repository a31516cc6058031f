"""Convolutions: the way back from y to x is the transposed convolution with the same weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from training.autodiff.graph import Call, Graph, rule


@dataclass(frozen=True)
class Windows:
    """How windows of `kernel` elements lie on the spatial axes: `after` makes them end where the last one does.

    size + before + after = (count − 1)·stride + (kernel − 1)·dilation + 1, for each axis; a negative `after` are elements that no
    window reaches.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, call: Call, kernel: Sequence[int]) -> "Windows":
        """The windows of a convolution or a pool, whatever way its padding is written."""
        axes = range(2, len(kernel) + 2)
        sizes = [call.graph.size(call.x, (axis,)) for axis in axes]
        counts = [call.graph.size(call.y, (axis,)) for axis in axes]
        strides = call.attribute("strides") or [1] * len(kernel)
        dilations = call.attribute("dilations") or [1] * len(kernel)
        reach = [
            (count - 1) * stride + (k - 1) * dilation + 1
            for count, stride, dilation, k in zip(counts, strides, dilations, kernel, strict=True)
        ]
        total = [spanned - size for spanned, size in zip(reach, sizes, strict=True)]
        before = _padding_before(call, total)
        after = [t - b for t, b in zip(total, before, strict=True)]
        return cls(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after))

    @property
    def side(self) -> int:
        """Strides to a kernel, where both are square and these many fill it without gaps and reach all elements; else 0."""
        (kernel, *more), (stride, *others) = self.kernel, self.strides
        square = set(more) <= {kernel} and set(others) <= {stride} and set(self.dilations) == {1}
        whole = square and kernel % stride == 0 and min(*self.before, *self.after) >= 0
        return kernel // stride if whole else 0

    @property
    def halving(self) -> bool:
        """Whether every second element begins a window on both of two axes, each element lies in one, and each window on an element."""
        inside = all(
            k - 2 >= max(after, 0) for k, after in zip(self.kernel, self.after, strict=True)
        )
        return (
            self.strides == (2, 2)
            and set(self.dilations) == {1}
            and inside
            and min(self.before) >= 0
        )

    @property
    def transposed(self) -> dict[str, list[int]]:
        """The attributes of the ConvTranspose that spreads windows over the elements they came from."""
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.before, *(max(pad, 0) for pad in self.after)],
            "output_padding": [max(-pad, 0) for pad in self.after],
        }


def _padding_before(call: Call, total: Sequence[int]) -> list[int]:
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        return list((call.attribute("pads") or [0] * 2 * len(total))[: len(total)])
    if automatic == "VALID":
        return [0] * len(total)
    extra = 1 if automatic == "SAME_LOWER" else 0
    return [max(pad + extra, 0) // 2 for pad in total]


@rule("Conv")
def _conv(call: Call) -> dict[int, str]:
    """G convolved with the flipped weights where the stride is 1, with their phases where it is 2 or divides the kernel, else by ConvTranspose.

    What is done to the weights are a few nodes, which ONNX Runtime folds at load: the file holds them once. On a CPU the convolution
    takes 10 to 35 % less time than the ConvTranspose that means the same.
    """
    if any(call.wanted[1:]):
        raise call.unsupported("its weights depend on the image")
    graph, weights = call.graph, call.node.input[1]
    shape = graph.shape(weights)
    kernel, groups = [size or 0 for size in shape[2:]], call.attribute("group", 1)
    windows = Windows.of(call, kernel)
    pads = full_pads(windows)
    if set(windows.strides) == {1} and min(pads) >= 0 and len(kernel) == 2:  # noqa: PLR2004
        flipped = _flipped(graph, weights, groups)
        back = graph.node(
            "Conv",
            call.gradient,
            flipped,
            pads=pads,
            dilations=list(windows.dilations),
            group=groups,
        )
    elif groups == 1 and windows.side and len(kernel) == 2:  # noqa: PLR2004
        back = _by_phases(call, weights, windows)
    elif groups == 1 and windows.halving:
        back = _by_four_phases(call, weights, windows)
    else:
        back = graph.node(
            "ConvTranspose",
            call.gradient,
            weights,
            group=groups,
            kernel_shape=kernel,
            **windows.transposed,
        )
    return {0: back}


def _by_phases(call: Call, weights: str, windows: Windows) -> str:
    """An element of x is met by every stride-th weight, from one of stride² phases on: a small convolution for each, interleaved."""
    graph, stride, side = call.graph, windows.strides[0], windows.side
    out, inside = (size or 0 for size in graph.shape(weights)[:2])
    parted = graph.node("Reshape", weights, graph.integers(out, inside, side, stride, side, stride))
    axes = graph.integers(2, 4)
    turned = graph.node(
        "Slice",
        parted,
        graph.integers(-1, -1),
        graph.integers(-(2**31), -(2**31)),
        axes,
        graph.integers(-1, -1),
    )
    phases = graph.node("Transpose", turned, perm=[3, 5, 1, 0, 2, 4])
    filters = graph.node("Reshape", phases, graph.integers(stride**2 * inside, out, side, side))
    spread = graph.node("Conv", call.gradient, filters, pads=[side - 1] * 4)
    cells = [graph.size(call.y, (axis,)) + side - 1 for axis in (2, 3)]
    return _cropped(call, interleaved(graph, spread, windows.strides, inside, cells), windows)


def _by_four_phases(call: Call, weights: str, windows: Windows) -> str:
    """The same with stride 2 for any kernel: of 3×3 weights an element is met by 4, 2, 2 or 1, and each phase multiplies no more."""
    graph = call.graph
    cells = [
        (graph.size(call.x, (axis,)) + before + 1) // 2
        for axis, before in zip((2, 3), windows.before, strict=True)
    ]
    beyond = [cell - graph.size(call.y, (axis,)) for cell, axis in zip(cells, (2, 3), strict=True)]
    phases = []
    for first in product(range(2), repeat=2):
        taps = [(k - f + 1) // 2 for k, f in zip(windows.kernel, first, strict=True)]
        last = [f + 2 * (count - 1) for f, count in zip(first, taps, strict=True)]
        every = (
            graph.integers(*last),
            graph.integers(-(2**31), -(2**31)),
            graph.integers(2, 3),
            graph.integers(-2, -2),
        )
        filters = graph.node("Transpose", graph.node("Slice", weights, *every), perm=[1, 0, 2, 3])
        phases.append(
            graph.node(
                "Conv", call.gradient, filters, pads=[*(count - 1 for count in taps), *beyond]
            )
        )
    inside = graph.size(call.x, (1,))
    return _cropped(
        call,
        interleaved(graph, graph.node("Concat", *phases, axis=1), windows.strides, inside, cells),
        windows,
    )


def interleaved(
    graph: Graph, phases: str, strides: Sequence[int], channels: int, cells: Sequence[int]
) -> str:
    """(N, phases · channels, *cells) → (N, channels, *(cells · strides)); a block of channels for each phase, the last axis' counting fastest.

    Axis by axis, the last one first: then the others move whole rows, and on a CPU it takes half the time of DepthToSpace.
    """
    rank, spatial = len(cells), list(cells)
    name = graph.node("Reshape", phases, graph.integers(-1, *strides, channels, *cells))
    for axis in reversed(range(rank)):
        order = [position for position in range(axis + rank + 3) if position != axis + 1]
        order.insert(2 * axis + 3, axis + 1)
        spatial[axis] *= strides[axis]
        moved = graph.node("Transpose", name, perm=order)
        name = graph.node("Reshape", moved, graph.integers(-1, *strides[:axis], channels, *spatial))
    return name


def _cropped(call: Call, whole: str, windows: Windows) -> str:
    """What lies on x of `whole`, which begins where the windows do."""
    ends = [
        before + call.graph.size(call.x, (axis,))
        for before, axis in zip(windows.before, (2, 3), strict=True)
    ]
    starts = windows.before
    return call.graph.node(
        "Slice",
        whole,
        call.graph.integers(*starts),
        call.graph.integers(*ends),
        call.graph.integers(2, 3),
    )


def full_pads(windows: Windows) -> list[int]:
    """The padding that makes the convolution of g as large as x."""
    reach = [(k - 1) * d for k, d in zip(windows.kernel, windows.dilations, strict=True)]
    return [
        r - pad
        for pads in (windows.before, windows.after)
        for r, pad in zip(reach, pads, strict=True)
    ]


def _flipped(graph: Graph, weights: str, groups: int) -> str:
    """(out, in/groups, kh, kw) → (in, out/groups, kh, kw), the kernels turned by 180°."""
    out, inside, *kernel = (size or 0 for size in graph.shape(weights))
    if kernel != [1] * len(kernel):
        first, past = [-1] * len(kernel), [-(2**31)] * len(kernel)
        axes = list(range(2, 2 + len(kernel)))
        weights = graph.node(
            "Slice", weights, *(graph.integers(*values) for values in (first, past, axes, first))
        )
    if groups == 1:
        return graph.node("Transpose", weights, perm=[1, 0, 2, 3])
    split = graph.node("Reshape", weights, graph.integers(groups, out // groups, inside, *kernel))
    turned = graph.node("Transpose", split, perm=[0, 2, 1, 3, 4])
    return graph.node("Reshape", turned, graph.integers(groups * inside, out // groups, *kernel))


@rule("ConvTranspose")
def _conv_transpose(call: Call) -> dict[int, str]:
    """G convolved with the same weights."""
    if any(call.wanted[1:]):
        raise call.unsupported("its weights depend on the image")
    graph, weights = call.graph, call.node.input[1]
    kernel = [size or 0 for size in graph.shape(weights)[2:]]
    ones = [1] * len(kernel)
    strides, dilations = call.attribute("strides") or ones, call.attribute("dilations") or ones
    pads = _transposed_pads(call, kernel, strides, dilations)
    attributes = {
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "group": call.attribute("group", 1),
    }
    return {0: graph.node("Conv", call.gradient, weights, kernel_shape=kernel, **attributes)}


def _transposed_pads(
    call: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID") or call.attribute(
        "output_shape"
    ):
        raise call.unsupported("its padding is written as auto_pad or output_shape; write pads")
    given = call.attribute("pads") or [0] * 2 * len(kernel)
    axes = np.arange(2, 2 + len(kernel))
    sizes = np.array([call.graph.size(call.x, (int(axis),)) for axis in axes])
    found = np.array([call.graph.size(call.y, (int(axis),)) for axis in axes])
    before = np.array(given[: len(kernel)])
    after = (sizes - 1) * strides + (np.array(kernel) - 1) * dilations + 1 - before - found
    return [*map(int, before), *(max(int(pad), 0) for pad in after)]
