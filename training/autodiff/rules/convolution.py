"""Convolutions: the gradient of x is the transposed convolution of g with the same weights.

Weights W are (out, in/groups, *kernel) and may not depend on the image. Nodes turn them as needed,
and ONNX Runtime folds these nodes at load: so the file holds W once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule

SPATIAL_2D = (2, 3)
BEFORE_FIRST = -(2**31)  # as the end of a slice with negative steps: up to the first element


@dataclass(frozen=True)
class Windows:
    """The places of windows of `kernel` elements on the spatial axes.

    For each axis: size + before + after = (count − 1)·stride + (kernel − 1)·dilation + 1.
    `before` and `after` are paddings; a negative `after` counts elements that no window reaches.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, ctx: Context, kernel: Sequence[int]) -> "Windows":
        """The windows of a convolution or a pool, with explicit or automatic padding."""
        axes = range(2, len(kernel) + 2)
        sizes = [ctx.graph.size(ctx.x, (axis,)) for axis in axes]
        counts = [ctx.graph.size(ctx.y, (axis,)) for axis in axes]
        strides = ctx.attribute("strides") or [1] * len(kernel)
        dilations = ctx.attribute("dilations") or [1] * len(kernel)
        spans = [
            (count - 1) * stride + (k - 1) * dilation + 1
            for count, stride, dilation, k in zip(counts, strides, dilations, kernel, strict=True)
        ]
        total = [span - size for span, size in zip(spans, sizes, strict=True)]
        before = _padding_before(ctx, total)
        after = [t - b for t, b in zip(total, before, strict=True)]
        return cls(tuple(kernel), tuple(strides), tuple(dilations), tuple(before), tuple(after))

    def along(self, axis: int) -> "Windows":
        """The windows along `axis` alone, one element wide on the others."""

        def alone(values: Sequence[int], other: int) -> tuple[int, ...]:
            return tuple(v if place == axis else other for place, v in enumerate(values))

        return Windows(
            alone(self.kernel, 1),
            alone(self.strides, 1),
            alone(self.dilations, 1),
            alone(self.before, 0),
            alone(self.after, 0),
        )

    def is_whole(self, sizes: Sequence[int]) -> bool:
        """True if one window covers all of an image of `sizes`, and nothing else."""
        is_plain = {*self.before, *self.after} == {0} and set(self.dilations) == {1}
        return is_plain and self.kernel == tuple(sizes)

    @property
    def strides_per_kernel(self) -> int:
        """The number of strides that make up a kernel, for `_by_phases`; 0 where it does not apply.

        It applies to square kernels and strides without dilation that leave no element out.
        """
        (kernel, *others), (stride, *more) = self.kernel, self.strides
        is_square = set(others) <= {kernel} and set(more) <= {stride}
        is_whole = kernel % stride == 0 and min(*self.before, *self.after) >= 0
        is_plain = is_square and set(self.dilations) == {1}
        return kernel // stride if is_plain and is_whole else 0

    @property
    def is_halving(self) -> bool:
        """True if `_by_four_phases` applies: stride 2 on two axes, and no element is left out."""
        pairs = zip(self.kernel, self.after, strict=True)
        return (
            self.strides == (2, 2)
            and set(self.dilations) == {1}
            and all(k - 2 >= max(after, 0) for k, after in pairs)
            and min(self.before) >= 0
        )

    @property
    def transposed(self) -> dict[str, list[int]]:
        """The attributes of the ConvTranspose that adds windows up where they came from."""
        return {
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [*self.before, *(max(pad, 0) for pad in self.after)],
            "output_padding": [max(-pad, 0) for pad in self.after],
        }


def _padding_before(ctx: Context, total: Sequence[int]) -> list[int]:
    automatic = ctx.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        return list((ctx.attribute("pads") or [0] * 2 * len(total))[: len(total)])
    if automatic == "VALID":
        return [0] * len(total)
    extra = 1 if automatic == "SAME_LOWER" else 0
    return [max(pad + extra, 0) // 2 for pad in total]


@rule("Conv")
def _conv(ctx: Context) -> dict[int, str]:
    """Gradient of x convolved with W: g convolved with the flipped weights, in four forms.

    A convolution where the stride is 1, small convolutions where it divides the kernel or is 2,
    and ConvTranspose otherwise.
    """
    # The first three forms take 10 to 35 % less time on a CPU than the ConvTranspose that they
    # equal (docs/decisions/0002).
    if any(ctx.needs_gradient[1:]):
        raise ctx.unsupported("its weights depend on the image")
    graph, weights, gradient = ctx.graph, ctx.node.input[1], ctx.gradient
    kernel = [size or 0 for size in graph.shape(weights)[2:]]
    groups, is_2d = ctx.attribute("group", 1), len(kernel) == len(SPATIAL_2D)
    windows = Windows.of(ctx, kernel)
    pads = full_pads(windows)
    if set(windows.strides) == {1} and min(pads) >= 0 and is_2d:
        flipped = _flipped(graph, weights, groups)
        dilations = list(windows.dilations)
        attributes = {"pads": pads, "dilations": dilations, "group": groups}
        return {0: graph.node("Conv", gradient, flipped, **attributes)}
    if groups == 1 and windows.strides_per_kernel and is_2d:
        return {0: _by_phases(ctx, weights, windows)}
    if groups == 1 and windows.is_halving:
        return {0: _by_four_phases(ctx, weights, windows)}
    transposed = {"group": groups, "kernel_shape": kernel, **windows.transposed}
    return {0: graph.node("ConvTranspose", gradient, weights, **transposed)}


def _by_phases(ctx: Context, weights: str, windows: Windows) -> str:
    """The gradient where the stride divides the kernel.

    An element of x meets every stride-th weight, beginning with one of stride² phases. So each
    phase is a small convolution, and their results interleave.
    """
    graph, stride, side = ctx.graph, windows.strides[0], windows.strides_per_kernel
    out, inside = (size or 0 for size in graph.shape(weights)[:2])
    split = graph.node("Reshape", weights, graph.integers(out, inside, side, stride, side, stride))
    flipped = _reversed(graph, split, axes=(2, 4))
    phases = graph.node("Transpose", flipped, perm=[3, 5, 1, 0, 2, 4])
    filters = graph.node("Reshape", phases, graph.integers(stride**2 * inside, out, side, side))
    answers = graph.node("Conv", ctx.gradient, filters, pads=[side - 1] * 4)
    cells = [graph.size(ctx.y, (axis,)) + side - 1 for axis in SPATIAL_2D]
    return _cropped(ctx, interleaved(graph, answers, windows.strides, inside, cells), windows)


def _by_four_phases(ctx: Context, weights: str, windows: Windows) -> str:
    """The gradient where the stride is 2, for any kernel.

    Of 3×3 weights an element of x meets 4, 2, 2 or 1, and each of the four phases multiplies no
    more than that.
    """
    graph = ctx.graph
    cells = [
        (graph.size(ctx.x, (axis,)) + before + 1) // 2
        for axis, before in zip(SPATIAL_2D, windows.before, strict=True)
    ]
    beyond = [
        cell - graph.size(ctx.y, (axis,)) for cell, axis in zip(cells, SPATIAL_2D, strict=True)
    ]
    phases = []
    for first in product(range(2), repeat=2):
        counts = [(k - f + 1) // 2 for k, f in zip(windows.kernel, first, strict=True)]
        last = [f + 2 * (count - 1) for f, count in zip(first, counts, strict=True)]
        taps = _reversed(graph, weights, SPATIAL_2D, last, step=2)
        filters = graph.node("Transpose", taps, perm=[1, 0, 2, 3])
        pads = [*(count - 1 for count in counts), *beyond]
        phases.append(graph.node("Conv", ctx.gradient, filters, pads=pads))
    stacked = graph.node("Concat", *phases, axis=1)
    whole = interleaved(graph, stacked, windows.strides, graph.size(ctx.x, (1,)), cells)
    return _cropped(ctx, whole, windows)


def interleaved(
    graph: Builder, phases: str, strides: Sequence[int], channels: int, cells: Sequence[int]
) -> str:
    """(N, phases · channels, *cells) → (N, channels, *(cells · strides)).

    `phases` has a block of channels for each phase; the phase of the last axis counts fastest.
    """
    rank, spatial = len(cells), list(cells)
    name = graph.node("Reshape", phases, graph.integers(-1, *strides, channels, *cells))
    # The last axis first: then the others move whole rows, which takes half the time of
    # DepthToSpace on a CPU.
    for axis in reversed(range(rank)):
        order = [position for position in range(axis + rank + 3) if position != axis + 1]
        order.insert(2 * axis + 3, axis + 1)
        spatial[axis] *= strides[axis]
        moved = graph.node("Transpose", name, perm=order)
        name = graph.node("Reshape", moved, graph.integers(-1, *strides[:axis], channels, *spatial))
    return name


def _cropped(ctx: Context, whole: str, windows: Windows) -> str:
    """The part of `whole`, which begins where the first window does, that lies on x."""
    graph = ctx.graph
    ends = [
        before + graph.size(ctx.x, (axis,))
        for before, axis in zip(windows.before, SPATIAL_2D, strict=True)
    ]
    bounds = graph.integers(*windows.before), graph.integers(*ends), graph.integers(*SPATIAL_2D)
    return graph.node("Slice", whole, *bounds)


def full_pads(windows: Windows) -> list[int]:
    """The padding with which the convolution of g is as large as x."""
    spans = [(k - 1) * d for k, d in zip(windows.kernel, windows.dilations, strict=True)]
    return [
        span - pad
        for pads in (windows.before, windows.after)
        for span, pad in zip(spans, pads, strict=True)
    ]


def _reversed(
    graph: Builder,
    weights: str,
    axes: Sequence[int],
    last: Sequence[int] | None = None,
    step: int = 1,
) -> str:
    """`weights` read backwards along `axes`: from the index `last`, every `step`-th element."""
    starts = [-1] * len(axes) if last is None else last
    ends, steps = [BEFORE_FIRST] * len(axes), [-step] * len(axes)
    bounds = [graph.integers(*values) for values in (starts, ends, axes, steps)]
    return graph.node("Slice", weights, *bounds)


def _flipped(graph: Builder, weights: str, groups: int) -> str:
    """(out, in/groups, kh, kw) → (in, out/groups, kh, kw), the kernels turned by 180°."""
    out, inside, *kernel = (size or 0 for size in graph.shape(weights))
    if kernel != [1] * len(kernel):
        weights = _reversed(graph, weights, range(2, 2 + len(kernel)))
    if groups == 1:
        return graph.node("Transpose", weights, perm=[1, 0, 2, 3])
    split = graph.node("Reshape", weights, graph.integers(groups, out // groups, inside, *kernel))
    swapped = graph.node("Transpose", split, perm=[0, 2, 1, 3, 4])
    return graph.node("Reshape", swapped, graph.integers(groups * inside, out // groups, *kernel))


@rule("ConvTranspose")
def _conv_transpose(ctx: Context) -> dict[int, str]:
    """Gradient of the transposed convolution of x with W: g convolved with W."""
    if any(ctx.needs_gradient[1:]):
        raise ctx.unsupported("its weights depend on the image")
    graph, weights = ctx.graph, ctx.node.input[1]
    kernel = [size or 0 for size in graph.shape(weights)[2:]]
    ones = [1] * len(kernel)
    strides, dilations = ctx.attribute("strides") or ones, ctx.attribute("dilations") or ones
    attributes = {
        "strides": strides,
        "dilations": dilations,
        "pads": _transposed_pads(ctx, kernel, strides, dilations),
        "group": ctx.attribute("group", 1),
    }
    return {0: graph.node("Conv", ctx.gradient, weights, kernel_shape=kernel, **attributes)}


def _transposed_pads(
    ctx: Context, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The padding of the convolution back; `output_padding` makes its end differ from `pads`."""
    automatic = ctx.attribute("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID")
    if automatic or ctx.attribute("output_shape"):
        raise ctx.unsupported("its padding is written as auto_pad or output_shape; write pads")
    pads = ctx.attribute("pads") or [0] * 2 * len(kernel)
    axes = range(2, 2 + len(kernel))
    sizes, results = (
        np.array([ctx.graph.size(name, (axis,)) for axis in axes]) for name in (ctx.x, ctx.y)
    )
    before = np.array(pads[: len(kernel)])
    spans = (sizes - 1) * strides + (np.array(kernel) - 1) * dilations + 1
    after = spans - before - results
    return [*map(int, before), *(max(int(pad), 0) for pad in after)]
