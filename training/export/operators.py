"""ONNX operators on float64 arrays, for `training.export.exact`, where onnx's reference lacks.

The reference computes in the type of its input. Its convolutions and pools are slow, its LRN is
wrong, and some functions are not analytic. Those here are fast, and analytic wherever the operator
has a slope: a complex array with a small imaginary part comes out with that part times the slope.
A comparison looks at the real part.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, reduce
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped
from onnx import NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = Shaped[np.ndarray, "..."]  # float64 or complex128; of shape arithmetic int64
Function = Callable[..., Any]
View = tuple[tuple[int, ...], tuple[slice, ...]]  # a place in a window, its elements in all windows
SQRT_HALF = math.sqrt(0.5)
# erf is 1 in float64 from 6 on. Between two places of the table lies a Taylor polynomial; its first
# term that is left out is below 1e-17.
ERF_END, ERF_PLACES, ERF_TERMS = 6.0, 128, 7
# The most elements of the matrix of all windows; beyond it a convolution sums over their places.
MOST_SEEN = 2**23


def _real(function: Function) -> Function:
    """`function` of the real parts."""
    return lambda *inputs: function(*(np.real(x) for x in inputs))


def _abs(x: Array) -> Array:
    return np.where(np.real(x) < 0, -x, x)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-_abs(x))
    return np.asarray(np.where(np.real(x) < 0, small, 1.0) / (1 + small))


def _softplus(x: Array) -> Array:
    return np.asarray(np.where(np.real(x) > 0, x, 0) + np.log1p(np.exp(-_abs(x))))


@cache
def _erf_table() -> Float64[np.ndarray, "terms places"]:
    """The Taylor coefficients of erf at 0, 1 / ERF_PLACES, … ERF_END."""
    x = np.arange(round(ERF_END * ERF_PLACES) + 1) / ERF_PLACES
    slope = 2 / math.sqrt(math.pi) * np.exp(-x * x)
    terms = [np.array([math.erf(each) for each in x])]
    before, hermite = np.zeros_like(x), np.ones_like(x)
    for order in range(1, ERF_TERMS):  # the slope's derivatives are Hermite polynomials times it
        terms.append(slope * hermite * (-1) ** (order - 1) / math.factorial(order))
        before, hermite = hermite, 2 * x * hermite - 2 * (order - 1) * before
    return np.stack(terms)


def erf(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """The error function, to 5e-16 of itself; SciPy, which has one, is no requirement."""
    size = np.minimum(np.abs(x), ERF_END)
    step = np.rint(size * ERF_PLACES)
    # A NaN stays one by its step. Places are in the table; clipping is the fastest check.
    places = np.nan_to_num(step).astype(np.intp)
    step = size - step / ERF_PLACES
    value = np.zeros_like(size)
    for coefficients in _erf_table()[::-1]:
        value *= step
        value += coefficients.take(places, mode="clip")
    return np.asarray(np.copysign(value, x))


def _erf(x: Array) -> Array:
    value = erf(np.asarray(np.real(x), np.float64))
    if not np.iscomplexobj(x):
        return np.asarray(value)
    slope = 2 / math.sqrt(math.pi) * np.exp(-(np.real(x) ** 2))
    return np.asarray(value + 1j * slope * np.imag(x))


def _gelu(x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return np.asarray(0.5 * x * (1 + _erf(SQRT_HALF * x)))


def _div(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        return np.asarray(np.trunc(a / b), a.dtype)  # shape arithmetic: far below 2⁵³
    return np.asarray(a / b)


def _cast(x: Array, to: int, **_: Any) -> Array:
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    if kind.kind not in "biu":  # every float, bfloat16 too, is float64 here
        return x if x.dtype.kind in "fc" else x.astype(np.float64)
    return np.asarray(np.real(x), kind)


def _cast_like(x: Array, y: Array, **_: Any) -> Array:
    return _cast(x, helper.np_dtype_to_tensor_dtype(np.real(y).dtype))


def _constant_of_shape(shape: Array, value: Array | None = None) -> Array:
    filling = np.zeros(1) if value is None else _double(value)
    return np.full(tuple(shape), filling.reshape(-1)[0])


def _double(x: Array) -> Array:
    """`x`, in float64 if its type is a float."""
    return x if x.dtype.kind in "biu" else x.astype(np.float64)


def _matmul(a: Array, b: Array) -> Array:
    """The product, as real products: the imaginary parts are too small for one of both."""
    if not np.iscomplexobj(a) and not np.iscomplexobj(b):
        return np.asarray(np.matmul(a, b))
    real = np.matmul(np.real(a), np.real(b))
    product = np.empty(real.shape, np.complex128)
    product.real = real
    product.imag = np.matmul(a.imag, np.real(b)) if np.iscomplexobj(a) else 0.0
    if np.iscomplexobj(b):
        product.imag += np.matmul(np.real(a), b.imag)
    return product


def _gemm(
    a: Array,
    b: Array,
    c: Array | float | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the names of the attributes
    transB: int = 0,  # noqa: N803
) -> Array:
    products = _matmul(a.T if transA else a, b.T if transB else b)
    return np.asarray(alpha * products + beta * (0.0 if c is None else c))


def _one_hot(indices: Array, depth: Array, values: Array, axis: int = -1) -> Array:
    hot = np.expand_dims(indices, axis) == _along(np.arange(int(depth.item())), axis, indices.ndim)
    return np.asarray(np.where(hot, values[1], values[0]))


def _along(values: Array, axis: int, rank: int) -> Array:
    """A vector as an array of `rank` + 1 axes that varies along `axis`."""
    axes = range(rank + 1)
    return np.expand_dims(values, [other for other in axes if other != axis % len(axes)])


def _pad(
    x: Array, pads: Array, value: Array | None = None, axes: Any = None, mode: str = "constant"
) -> Array:
    """The array with more around it, or less where an element of `pads` is negative."""
    around, cropped = [(0, 0)] * x.ndim, [slice(None)] * x.ndim
    named = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    for axis, before, after in zip(named, pads[: len(named)], pads[len(named) :], strict=True):
        around[axis] = (max(int(before), 0), max(int(after), 0))
        cropped[axis] = slice(max(-int(before), 0), x.shape[axis] - max(-int(after), 0))
    filling = {} if mode != "constant" or value is None else {"constant_values": value.item()}
    return np.asarray(np.pad(x[tuple(cropped)], around, mode=mode, **filling))  # type: ignore[call-overload]


def _normalised(x: Array, axes: Sequence[int], epsilon: float, *, constant: bool) -> Array:
    """`x` standardised; with a `constant` deviation, which has no imaginary part."""
    centred = x - x.mean(tuple(axes), keepdims=True)
    spread = np.real(centred) if constant else centred
    return np.asarray(
        centred / np.sqrt((spread * spread).mean(tuple(axes), keepdims=True) + epsilon)
    )


def _of_channels(values: Array, x: Array) -> Array:
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def instance_norm(
    x: Array, scale: Array, bias: Array, epsilon: float = 1e-5, *, constant: bool = False
) -> Array:
    """InstanceNormalization, with a `constant` deviation if asked."""
    normalised = _normalised(x, range(2, x.ndim), epsilon, constant=constant)
    return np.asarray(normalised * _of_channels(scale, x) + _of_channels(bias, x))


def group_norm(
    x: Array,
    scale: Array,
    bias: Array,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    constant: bool = False,
    **_: Any,
) -> Array:
    """GroupNormalization, with a `constant` deviation if asked."""
    groups = x.reshape(len(x), num_groups, -1)
    normalised = _normalised(groups, (2,), epsilon, constant=constant).reshape(x.shape)
    channels = x.shape[1]
    # Until opset 20 scale and bias have an element for each group, then for each channel.
    scale, bias = (values.repeat(channels // len(values)) for values in (scale, bias))
    return np.asarray(normalised * _of_channels(scale, x) + _of_channels(bias, x))


def layer_norm(
    x: Array,
    scale: Array,
    bias: Array | float = 0.0,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    constant: bool = False,
    **_: Any,
) -> Array:
    """LayerNormalization, with a `constant` deviation if asked."""
    axes = range(axis % x.ndim, x.ndim)
    return np.asarray(_normalised(x, axes, epsilon, constant=constant) * scale + bias)


def _lrn(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    around = ((0, 0), ((size - 1) // 2, size // 2), *((0, 0),) * (x.ndim - 2))
    squares, channels = np.pad(x * x, around), x.shape[1]
    total = sum(squares[:, first : first + channels] for first in range(size))
    return np.asarray(x / (bias + alpha / size * total) ** beta)


def _lp_norm(x: Array, axis: int = -1, p: int = 2) -> Array:
    powers = _abs(x) if p == 1 else x * x
    norm = powers.sum(axis, keepdims=True) ** (1 / p)
    return np.asarray(x / np.where(norm == 0, 1, norm))


def _reduce_l1(
    x: Array,
    axes: Any = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Array:
    if axes is None or not len(axes):
        axes = () if noop_with_empty_axes else range(x.ndim)
    return np.asarray(_abs(x).sum(tuple(int(axis) for axis in axes), keepdims=bool(keepdims)))


def _ends(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
    *,
    ceil: bool = False,
) -> tuple[list[tuple[int, int]], list[int]]:
    """The padding before and after each spatial axis of `x`, and the number of windows."""
    around, counts = [], []
    given = pads or [0] * 2 * len(kernel)
    for axis, (k, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size, span = x.shape[axis + 2], (k - 1) * dilation + 1
        before, after = given[axis], given[axis + len(kernel)]
        count = -(-size // stride)
        if auto_pad.startswith("SAME"):
            total = max((count - 1) * stride + span - size, 0)
            before = -(-total // 2) if auto_pad == "SAME_LOWER" else total // 2
            after = total - before
        else:
            room = size + before + after - span
            count = (-(-room // stride) if ceil else room // stride) + 1
            # No window begins behind the image and the padding before it.
            count -= ceil and (count - 1) * stride >= size + before
        around.append((before, after))
        counts.append(count)
    return around, counts


def _views(
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    counts: Sequence[int],
) -> Iterator[View]:
    """The places in a window, each with the slices of the elements there in all windows."""
    for place in product(*(range(k) for k in kernel)):
        yield (
            place,
            (
                slice(None),
                slice(None),
                *(
                    slice(p * d, p * d + (count - 1) * s + 1, s)
                    for p, d, s, count in zip(place, dilations, strides, counts, strict=True)
                ),
            ),
        )


def _taps(filters: Array, place: tuple[Any, ...]) -> Array:
    """The weights at a place in the window."""
    return np.asarray(filters[(Ellipsis, *place)])


def _split(function: Function) -> Function:
    """A linear `function` of x with real weights, of a complex x too: part by part."""

    def both(x: Array, weights: Array, bias: Array | None = None, **attributes: Any) -> Array:
        parts = (x.real, x.imag) if np.iscomplexobj(x) else (x,)
        results = [function(np.ascontiguousarray(part), weights, **attributes) for part in parts]
        y = results[0] if len(results) == 1 else results[0] + 1j * results[1]
        return y if bias is None else np.asarray(y + _of_channels(bias, y))

    return both


@_split
def _conv(
    x: Array,
    weights: Array,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    pads: Any = None,
    strides: Any = None,
    **_: Any,
) -> Array:
    """The product of the weights and the matrix of all windows, or its sum over their places."""
    kernel = weights.shape[2:]
    ones = [1] * len(kernel)
    strides, dilations = strides or ones, dilations or ones
    around, counts = _ends(x, kernel, strides, dilations, pads, auto_pad)
    padded = np.pad(x, ((0, 0), (0, 0), *around)) if np.any(around) else x
    views = _views(kernel, strides, dilations, counts)
    is_small = group == 1 and x[0].size * math.prod(kernel) <= MOST_SEEN
    y = _by_window(padded, weights, views) if is_small else _by_place(padded, weights, views, group)
    return y.reshape(len(x), len(weights), *counts)


def _by_window(padded: Array, weights: Array, views: Iterator[View]) -> Array:
    windows = np.stack([padded[view] for _, view in views], 2)
    seen = windows.reshape(len(padded), math.prod(weights.shape[1:]), -1)
    return np.asarray(np.matmul(weights.reshape(len(weights), -1), seen))


def _by_place(padded: Array, weights: Array, views: Iterator[View], group: int) -> Array:
    filters = weights.reshape(group, len(weights) // group, *weights.shape[1:])
    total: Any = 0.0
    for place, view in views:
        seen = padded[view].reshape(len(padded), group, weights.shape[1], -1)
        taps = _taps(filters, place)
        # A matrix with one column scales: BLAS is slow at that.
        total += taps * seen if weights.shape[1] == 1 else np.matmul(taps, seen)
    return np.asarray(total)


@_split
def _conv_transpose(
    x: Array,
    weights: Array,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    output_padding: Any = None,
    output_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
    **_: Any,
) -> Array:
    """Each element of x, times the weights, added to its window."""
    kernel, rank = weights.shape[2:], x.ndim - 2
    ones, counts = [1] * rank, x.shape[2:]
    strides, dilations, more = strides or ones, dilations or ones, output_padding or [0] * rank
    spans = [
        (count - 1) * s + (k - 1) * d + 1 + extra
        for count, s, k, d, extra in zip(counts, strides, kernel, dilations, more, strict=True)
    ]
    if output_shape or auto_pad.startswith("SAME"):
        sizes = output_shape or [count * s for count, s in zip(counts, strides, strict=True)]
        # No padding is negative: an output that is larger than all windows ends in zeros.
        spans = [max(span, size) for span, size in zip(spans, sizes[-rank:], strict=True)]
        total = [span - size for span, size in zip(spans, sizes[-rank:], strict=True)]
        small = [each // 2 for each in total]
        large = [each - half for each, half in zip(total, small, strict=True)]
        pads = [*small, *large] if auto_pad == "SAME_UPPER" else [*large, *small]
    pads = pads or [0] * 2 * rank
    filters = weights.reshape(group, len(weights) // group, *weights.shape[1:])
    y = np.zeros((len(x), group * weights.shape[1], *spans))
    seen = x.reshape(len(x), group, len(weights) // group, -1)
    for place, view in _views(kernel, strides, dilations, counts):
        taps = np.swapaxes(_taps(filters, place), 1, 2)
        share = taps * seen if seen.shape[2] == 1 else np.matmul(taps, seen)
        y[view] += share.reshape(len(x), -1, *counts)
    inside = (
        slice(before, span - after)
        for before, after, span in zip(pads[:rank], pads[rank:], spans, strict=True)
    )
    return y[(slice(None), slice(None), *inside)]


def _windows(
    x: Array,
    filling: float,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Any = None,
    pads: Any = None,
    strides: Any = None,
    **_: Any,
) -> Iterator[Array]:
    """The elements at each place of all windows; `filling` stands where the image ends."""
    ones = [1] * len(kernel_shape)
    strides, dilations = strides or ones, dilations or ones
    around, counts = _ends(
        x, kernel_shape, strides, dilations, pads, auto_pad, ceil=bool(ceil_mode)
    )
    # A last window that is rounded up may reach beyond the padding.
    beyond = [(b, a + s) for (b, a), s in zip(around, strides, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), *beyond), constant_values=filling)
    return (padded[view] for _, view in _views(kernel_shape, strides, dilations, counts))


def _pooled(x: Array, combine: Function, filling: float, **attributes: Any) -> Array:
    """The elements of each window, `combine`d."""
    return np.asarray(reduce(combine, _windows(x, filling, **attributes)))


class MaxPool(OpRun):
    """The largest elements of the windows and, if asked for, where they are in all of x."""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:
        given = {name: value for name, value in attributes.items() if value is not None}
        y = _pooled(x, np.maximum, -np.inf, **given)
        return (y, _largest(x, **given)) if len(self.onnx_node.output) > 1 else (y,)


def _largest(x: Array, **attributes: Any) -> Array:
    """The place of the largest element of each window, the first of equal ones."""
    places = _windows(np.arange(x.size).reshape(x.shape), 0.0, **attributes)
    pairs = zip(_windows(np.real(x), -np.inf, **attributes), places, strict=True)
    top, best = next(pairs)
    for values, place in pairs:
        best = np.where(values > top, place, best)
        top = np.maximum(values, top)
    return best


def _average_pool(x: Array, *, count_include_pad: int = 0, **attributes: Any) -> Array:
    places = np.ones((1, 1, *x.shape[2:]))
    if count_include_pad:
        rank, pads = x.ndim - 2, attributes.get("pads") or [0] * 2 * (x.ndim - 2)
        around = zip(pads[:rank], pads[rank:], strict=True)
        places = np.pad(places, ((0, 0), (0, 0), *around), constant_values=1.0)
        sizes = _pooled(places, np.add, 0.0, **attributes | {"pads": None})
    else:
        sizes = _pooled(places, np.add, 0.0, **attributes)
    return np.asarray(_pooled(x, np.add, 0.0, **attributes) / sizes)


def _col2im(
    x: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Array:
    """The blocks, which are columns of x, added up where they are in the image."""
    image, block = [int(size) for size in image_shape], [int(size) for size in block_shape]
    rank, channels = len(image), x.shape[1] // math.prod(block)
    pads, ones = pads or [0] * 2 * rank, [1] * rank
    strides, dilations = strides or ones, dilations or ones
    padded = np.zeros(
        (len(x), channels, *(sum(s) for s in zip(image, pads, pads[rank:], strict=False))), x.dtype
    )
    _, counts = _ends(padded, block, strides, dilations, None, "NOTSET")
    columns = x.reshape(len(x), channels, *block, *counts)
    for place, view in _views(block, strides, dilations, counts):
        within: tuple[Any, ...] = (slice(None), slice(None), *place)
        padded[view] += columns[within]
    inside = (slice(start, start + size) for start, size in zip(pads, image, strict=False))
    return padded[(slice(None), slice(None), *inside)]


def _power_pool(x: Array, *, p: int = 2, **attributes: Any) -> Array:
    return np.asarray(_pooled(_abs(x) ** p, np.add, 0.0, **attributes) ** (1 / p))


def _global_power_pool(x: Array, *, p: int = 2) -> Array:
    sums = (_abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True)
    return np.asarray(sums ** (1 / p))


def _mod(x: Array, divisor: Array, *, fmod: int = 0) -> Array:
    remainder = (np.fmod if fmod else np.mod)(np.real(x), np.real(divisor))
    if not np.iscomplexobj(x) and not np.iscomplexobj(divisor):
        return np.asarray(remainder)
    quotient = np.rint((np.real(x) - remainder) / np.real(divisor))
    return np.asarray(x - quotient * divisor)


def _batch_norm(
    x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **attributes: Any
) -> Array:
    if attributes.get("training_mode"):  # of weights, which some networks standardise
        axes = (0, *range(2, x.ndim))
        mean, variance = x.mean(axes), x.var(axes)
    slope = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    return np.asarray(x * _by_channel(slope, x, 1) + _by_channel(bias - mean * slope, x, 1))


def _by_channel(values: Any, x: Array, axis: int) -> Any:
    """One value, or one for each place along `axis` of `x`."""
    if np.ndim(values) == 0 or np.size(values) == 1:
        return np.reshape(values, ())
    shape = [1] * x.ndim
    shape[axis] = -1
    return np.reshape(values, shape)


def _quantize(x: Array, scale: Array, zero: Any = None, *, axis: int = 1, **_: Any) -> Array:
    """Whole numbers; their slope is that of the line, as the rule's (straight through)."""
    zero = np.zeros((), np.uint8) if zero is None else zero
    limits = np.iinfo(zero.dtype) if zero.dtype.kind in "iu" else np.iinfo(np.uint8)
    step, shift = _by_channel(scale, x, axis), _by_channel(zero, x, axis).astype(np.float64)
    line = x / step + shift
    rounded = np.round(np.real(x / step)) + shift
    whole = np.clip(rounded, limits.min, limits.max)
    if not np.iscomplexobj(x):
        return np.asarray(whole)
    inside = rounded == whole  # no integer is clipped
    return np.asarray(whole + 1j * np.where(inside, np.imag(line), 0))


def _dequantize(
    x: Array, scale: Array, zero: Any = None, *, axis: int = 1, block_size: int = 0, **_: Any
) -> Array:
    if block_size:  # a scale for so many elements along the axis
        places = np.arange(x.shape[axis]) // block_size
        zero = 0.0 if zero is None else np.take(zero, places, axis).astype(np.float64)
        return np.asarray((x - zero) * np.take(scale, places, axis))
    shift = 0.0 if zero is None else _by_channel(zero, x, axis).astype(np.float64)
    return np.asarray((x - shift) * _by_channel(scale, x, axis))


def _scatter(x: Array, places: Any, updates: Array, reduction: str) -> Array:
    """`x` with the `updates` at `places`, an index of NumPy."""
    result = np.array(x, np.result_type(x, updates))
    if reduction == "add":
        np.add.at(result, places, updates)
    elif reduction == "none":
        result[places] = updates
    else:
        raise NotImplementedError(f"the reduction {reduction}")
    return result


def _scatter_elements(
    x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    places: list[Any] = list(np.indices(indices.shape))
    places[axis] = indices
    return _scatter(x, tuple(places), updates, reduction)


def _scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    return _scatter(x, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)


class DFT(OpRun):
    """The reference's Fourier transform, of the parts of a complex array one by one.

    The parts are the value and its slope; those of the signal are along the last axis.
    """

    def _run(self, x: Array, *others: Array | None, **attributes: Any) -> tuple[Array]:
        del attributes  # they are the node's
        ends = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, None)]
        feeds = {}
        for name, value in zip(self.onnx_node.input[1:], others, strict=False):
            if value is not None:
                ends.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
                feeds[name] = value
        node = NodeProto()
        node.CopyFrom(self.onnx_node)
        node.input[0] = "x"
        y = helper.make_tensor_value_info(node.output[0], TensorProto.DOUBLE, None)
        graph = helper.make_graph([node], "dft", ends, [y])
        reference = ReferenceEvaluator(graph, opsets=self.run_params["opsets"])
        parts = (x.real, x.imag) if np.iscomplexobj(x) else (x,)
        results: list[Any] = [reference.run(None, {"x": part, **feeds}) for part in parts]
        values = [result[0] for result in results]
        return (values[0] if len(values) == 1 else values[0] + 1j * values[1],)


class Resize(OpRun):
    """The reference's Resize of the unit vectors of each axis, times x."""

    def _run(
        self,
        x: Array,
        roi: Array | None = None,
        scales: Array | None = None,
        sizes: Array | None = None,
        axes: Any = None,
        **attributes: Any,
    ) -> tuple[Array]:
        del roi
        given = scales if sizes is None or not len(sizes) else sizes
        assert given is not None
        name = "scales" if given is scales else "sizes"
        for axis, value in zip(axes or range(x.ndim), given, strict=True):
            if value != (1 if name == "scales" else x.shape[axis]):
                matrix = self._matrix(x.shape[axis], name, value, attributes)
                x = np.moveaxis(_matmul(np.moveaxis(x, axis, -1), matrix), -1, axis)
        return (x,)

    def _matrix(self, size: int, name: str, value: Any, attributes: dict[str, Any]) -> Array:
        """The matrix (size, new size) that resizes one axis."""
        inputs = ["x", "", "scales", ""] if name == "scales" else ["x", "", "", "sizes"]
        known = {key: each for key, each in attributes.items() if each is not None}
        node = helper.make_node("Resize", inputs, ["y"], **known)
        ends = [
            helper.make_tensor_value_info(end, kind, None)
            for end, kind in (("x", TensorProto.DOUBLE), (name, TensorProto.INT64))
        ]
        y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
        graph = helper.make_graph([node], "resize", ends, [y])
        reference = ReferenceEvaluator(graph, opsets=self.run_params["opsets"])
        new = np.array([1.0, value]) if name == "scales" else np.array([size, value])
        (matrix,) = reference.run(None, {"x": np.eye(size), name: new})
        return np.asarray(matrix)


def operator(name: str, function: Function) -> type[OpRun]:
    """The class that ReferenceEvaluator takes for the operator `name`."""

    def _run(_self: OpRun, *inputs: Any, **attributes: Any) -> tuple[Any]:
        # The reference gives numpy's scalars for defaults.
        given = {
            key: float(value) if isinstance(value, np.floating) else value
            for key, value in attributes.items()
            if value is not None
        }
        return (np.asarray(function(*inputs, **given)),)

    return type(name, (OpRun,), {"op_domain": "", "_run": _run})


FUNCTIONS: dict[str, Function] = {
    "Abs": _abs,
    "Add": np.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _real(np.ceil),
    "Celu": lambda x, alpha=1.0: np.where(np.real(x) > 0, x, alpha * np.expm1(x / alpha)),
    "ConstantOfShape": _constant_of_shape,
    "Col2Im": _col2im,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Equal": _real(np.equal),
    "Erf": _erf,
    "Floor": _real(np.floor),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _real(np.greater),
    "GreaterOrEqual": _real(np.greater_equal),
    "GatherElements": lambda x, places, axis=0: np.take_along_axis(x, places, axis),
    "GlobalLpPool": _global_power_pool,
    "GroupNormalization": group_norm,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "InstanceNormalization": instance_norm,
    "LRN": _lrn,
    "LayerNormalization": layer_norm,
    "Less": _real(np.less),
    "LessOrEqual": _real(np.less_equal),
    "LpNormalization": _lp_norm,
    "LpPool": _power_pool,
    "MatMul": _matmul,
    "Max": lambda *inputs: reduce(np.maximum, inputs),
    "Mean": lambda *inputs: reduce(np.add, inputs) / len(inputs),
    "Min": lambda *inputs: reduce(np.minimum, inputs),
    "Mod": _mod,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Mul": np.multiply,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Pow": lambda x, exponent: np.power(x, exponent.astype(x.dtype)),
    "QuantizeLinear": _quantize,
    "ReduceL1": _reduce_l1,
    "Relu": lambda x: np.where(np.real(x) > 0, x, 0),
    "Round": _real(np.round),
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Sigmoid": _sigmoid,
    "Sign": _real(np.sign),
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + _abs(x)),
    "Sub": np.subtract,
    "Sum": lambda *inputs: reduce(np.add, inputs),
    "Where": np.where,
}
OPERATORS: list[type[OpRun]] = [
    DFT,
    MaxPool,
    Resize,
    *(operator(name, function) for name, function in FUNCTIONS.items()),
]
