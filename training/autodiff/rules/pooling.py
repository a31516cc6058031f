"""Pools: g goes back to the elements of each window, to the largest or to all in equal shares."""

from itertools import product

import numpy as np
from jaxtyping import Float

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, rule
from training.autodiff.rules.convolution import Windows, full_pads

MANY_PLACES = 4  # in a window, above which it is pooled axis by axis


@rule("MaxPool")
def _max_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the maximum of each window: g for the first element that equals y, else 0.

    Elements count in the order of rows. A large window is pooled axis by axis, the last axis first,
    which keeps that order and needs k + k places instead of k · k.
    """
    # No scatter and no MaxUnpool: neither has a kernel on every GPU provider.
    if len(ctx.gradients) > 1 and ctx.gradients[1] is not None:
        raise ctx.unsupported("its indices are used")
    graph, windows = ctx.graph, Windows.of(ctx, ctx.attribute("kernel_shape"))
    axes = range(len(windows.kernel))
    sizes = [graph.size(ctx.x, (axis + 2,)) for axis in axes]
    counts = [graph.size(ctx.y, (axis + 2,)) for axis in axes]
    if windows.is_whole(sizes):
        return {0: _first_of_all(ctx, sizes)}
    if np.prod(windows.kernel) <= MANY_PLACES:
        padded = _padded(graph, ctx.x, windows, float("-inf"))
        whole = _to_first(ctx, padded, ctx.y, ctx.gradient, windows, counts)
        return {0: graph.like(whole, ctx.x)}
    steps, x, channels = [], ctx.x, graph.size(ctx.x, (1,))
    for axis in reversed(axes):
        alone = windows.along(axis)
        padded = _padded(graph, x, alone, float("-inf"))
        x = _pooled(graph, padded, alone) if axis else ctx.y
        steps.append((padded, x, alone, [*sizes[:axis], *counts[axis:]]))
    gradient = ctx.gradient
    for axis, (padded, y, alone, places) in zip(axes, reversed(steps), strict=True):
        rows = _to_first(ctx, padded, y, gradient, alone, places)
        shape = graph.integers(-1, channels, *sizes[: axis + 1], *counts[axis + 1 :])
        gradient = graph.node("Reshape", rows, shape)
    return {0: gradient}


def _pooled(graph: Builder, x: str, windows: Windows) -> str:
    """The maxima of the windows of the padded x."""
    attributes = {"strides": list(windows.strides), "dilations": list(windows.dilations)}
    return graph.node("MaxPool", x, kernel_shape=list(windows.kernel), **attributes)


def _first_of_all(ctx: Context, sizes: list[int]) -> str:
    """The gradient where one window covers all elements of a channel."""
    graph, count = ctx.graph, int(np.prod(sizes))
    flat = graph.node("Reshape", ctx.x, graph.integers(0, 0, count))
    first = graph.node("ArgMax", flat, axis=2)
    equal = graph.node("Equal", first, graph.constant(np.arange(count)))
    shape = graph.integers(0, 0, *sizes)
    mask = graph.node("Reshape", graph.node("Where", equal, 1.0, 0.0), shape)
    return graph.node("Mul", mask, ctx.gradient)


def _to_first(
    ctx: Context, x: str, y: str, gradient: str, windows: Windows, counts: list[int]
) -> str:
    """`gradient`, shaped like y, at the first element of each window of the padded x.

    Its result has the elements of x without padding, but all channels are rows (N · C, 1, …). Each
    place in the window sees x through a strided slice. Where the slice equals y, it takes what is
    left of g. One place equals y, so the last takes what no other did. A transposed convolution
    with a kernel for each place puts the shares where they belong.
    """
    graph, dtype = ctx.graph, ctx.graph.dtype(ctx.y)
    places = list(product(*map(range, windows.kernel)))
    left, shares = gradient, []
    for place in places[:-1]:
        offsets = [i * d for i, d in zip(place, windows.dilations, strict=True)]
        equal = graph.node("Equal", _strided(graph, x, offsets, windows, counts), y)
        # A Where takes its share, too, but passes three times over its elements.
        shares.append(graph.node("Mul", graph.node("Cast", equal, to=dtype), left))
        left = graph.node("Sub", left, shares[-1])
    beside = graph.node("Concat", *shares, left, axis=2) if shares else left
    # All channels become rows: so the kernels of one channel serve all.
    rows = graph.node("Reshape", beside, graph.integers(-1, len(places), *counts))
    kernels = np.eye(len(places), dtype=np.float32).reshape(-1, 1, *windows.kernel)
    attributes = {"kernel_shape": list(windows.kernel), **windows.transposed}
    return graph.node("ConvTranspose", rows, graph.constant(kernels), **attributes)


def _padded(graph: Builder, x: str, windows: Windows, value: float) -> str:
    """`x` with the padding of `windows` around it."""
    after = [max(pad, 0) for pad in windows.after]
    if not any((*windows.before, *after)):
        return x
    pads = graph.integers(0, 0, *windows.before, 0, 0, *after)
    return graph.node("Pad", x, pads, value)


def _strided(
    graph: Builder, x: str, offsets: list[int], windows: Windows, counts: list[int]
) -> str:
    """The element of each window that lies `offsets` behind its first."""
    ends = [o + (n - 1) * s + 1 for o, n, s in zip(offsets, counts, windows.strides, strict=True)]
    axes = range(2, 2 + len(offsets))
    bounds = [graph.integers(*values) for values in (offsets, ends, axes, windows.strides)]
    return graph.node("Slice", x, *bounds)


@rule("AveragePool")
def _average_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the mean of each window: g/n for each of the n elements that it averages.

    With stride 1 that is an average pool of g, else a transposed convolution of g/n with ones.
    """
    graph, kernel = ctx.graph, ctx.attribute("kernel_shape")
    windows = Windows.of(ctx, kernel)
    counted, pads = _counted(ctx, windows), full_pads(windows)
    if set(windows.strides) | set(windows.dilations) == {1} and min(pads) >= 0:
        shares, gradient = float(np.prod(kernel)) / counted, ctx.gradient
        if (shares != 1).any():
            gradient = graph.node("Mul", gradient, graph.constant(shares))
        attributes = {"kernel_shape": kernel, "pads": pads, "count_include_pad": 1}
        return {0: graph.node("AveragePool", gradient, **attributes)}
    shared = graph.node("Mul", ctx.gradient, graph.constant(1 / counted))
    return {0: _spread(ctx, shared, windows)}


def _spread(ctx: Context, share: str, windows: Windows) -> str:
    """`share`, shaped like y, added to each element of its window, in the shape of x."""
    # All channels become rows of one channel: so one kernel of ones serves all.
    graph, kernel = ctx.graph, list(windows.kernel)
    sizes = [graph.size(ctx.y, (axis + 2,)) for axis in range(len(kernel))]
    rows = graph.node("Reshape", share, graph.integers(-1, 1, *sizes))
    ones = graph.constant(np.ones((1, 1, *kernel), np.float32))
    attributes = {"kernel_shape": kernel, **windows.transposed}
    return graph.like(graph.node("ConvTranspose", rows, ones, **attributes), ctx.x)


def _counted(ctx: Context, windows: Windows) -> Float[np.ndarray, "..."]:
    """The number of elements that each window averages.

    Those in the image, with `count_include_pad` those in its padding, too; never those beyond,
    which a window reaches where `ceil_mode` rounds up.
    """
    include = ctx.attribute("count_include_pad", 0)
    pads = ctx.attribute("pads") or [0] * 2 * len(windows.kernel)
    total = np.ones(())
    for axis, k in enumerate(windows.kernel):
        size, count = ctx.graph.size(ctx.x, (axis + 2,)), ctx.graph.size(ctx.y, (axis + 2,))
        low, high = 0, size
        if include:
            low, high = -windows.before[axis], size + pads[len(windows.kernel) + axis]
        starts = np.arange(count) * windows.strides[axis] - windows.before[axis]
        places = starts[:, None] + np.arange(k) * windows.dilations[axis]
        total = np.multiply.outer(total, ((places >= low) & (places < high)).sum(1))
    return total


@rule("GlobalAveragePool")
def _global_average_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the mean of all n pixels of a channel: g/n for each."""
    graph = ctx.graph
    share = 1 / graph.size(ctx.x, range(2, len(graph.shape(ctx.x))))
    shared = graph.node("Mul", ctx.gradient, share)
    return {0: graph.node("Expand", shared, graph.run_time_shape(ctx.x))}


@rule("GlobalMaxPool")
def _global_max_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the maximum of a channel: g for the pixel that equals y, else 0.

    Several that equal y share g, as in torch.amax; torch's adaptive_max_pool takes the first.
    """
    graph = ctx.graph
    mask = graph.node("Where", graph.node("Equal", ctx.x, ctx.y), 1.0, 0.0)
    ties = graph.sum(mask, range(2, len(graph.shape(ctx.x))))
    return {0: graph.node("Mul", mask, graph.node("Div", ctx.gradient, ties))}


@rule("LpPool")
def _lp_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the norm (Σ |x|ᵖ)^(1/p) of each window: see `_norm_share`."""
    windows = Windows.of(ctx, ctx.attribute("kernel_shape"))
    share, slope = _norm_share(ctx)
    return {0: ctx.graph.node("Mul", slope, _spread(ctx, share, windows))}


@rule("GlobalLpPool")
def _global_lp_pool(ctx: Context) -> dict[int, str]:
    """Gradient of the norm (Σ |x|ᵖ)^(1/p) of a channel: see `_norm_share`."""
    share, slope = _norm_share(ctx)
    return {0: ctx.graph.node("Mul", slope, share)}


def _norm_share(ctx: Context) -> tuple[str, str]:
    """The factors g/y^(p−1) and sign(x)·|x|^(p−1) of the gradient of a p-norm; 0 where y = 0."""
    graph, p = ctx.graph, float(ctx.attribute("p", 2))
    norm = graph.node("Where", graph.node("Greater", ctx.y, 0.0), ctx.y, 1.0)
    share = graph.node("Div", ctx.gradient, graph.node("Pow", norm, p - 1))
    size = graph.node("Pow", graph.node("Abs", ctx.x), p - 1)
    return share, graph.node("Mul", graph.node("Sign", ctx.x), size)
