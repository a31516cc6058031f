"""Tensors of numbers as images: whole numbers are pixels, floats the network's own input.

Floats are what a client sends to the ONNX file in another server: the image scaled to the network's
size and normalised, x = (p / 255 − mean) / std. They are brought back to the pixels p, which are
whole: of an image that had 8 bits, exactly.
"""

import itertools
import math
from typing import Any

import numpy as np

from service.errors import InvalidParameter, MalformedRequest, short
from service.image.decode import check_size
from service.image.resize import Input, described
from service.runtime.graphs import Batch

DTYPES = {
    "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
    "INT8": "i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
CHANNELS = (1, 3)
AXES = 4
SHAPES = "(N, H, W, 3), (N, 3, H, W), or with 1 channel"
MOST = 255
PIXELS = "whole numbers are pixels, give 0 to 255"
# By how much of a pixel value a normalised one may lie outside 0…255: rounding makes a half, and
# clients that scale by 127.5 for a network that was trained with 127 and 128 make one.
SLACK = 1.5


def check_shape(shape: tuple[int, ...], spec: Input, max_pixels: int, *, is_float: bool) -> None:
    """Checks a shape before its data become an array.

    Raises:
        InvalidParameter: it is not that of images, or floats have another size than `spec`.
        ImageTooLarge: its images have more than `max_pixels`.
    """
    if len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS):  # noqa: PLR2004
        raise InvalidParameter(
            f"the input's shape {short(list(shape))} has no axis of images: "
            f"give {short([1, *shape])}"
        )
    if len(shape) != AXES or 0 in shape or not {shape[1], shape[3]} & set(CHANNELS):
        raise InvalidParameter(f"the input's shape is {short(list(shape))}: give {SHAPES}")
    height, width = _sides(shape)
    check_size(width, height, max_pixels)
    if is_float and (height, width) != spec.shape:
        raise InvalidParameter(
            f"the input is {height} × {width}, and floats are the network's own input of "
            f"{described(spec.size)}: scale the image, or send UINT8 pixels of any size"
        )


def _is_last(shape: tuple[int, ...]) -> bool:
    """True if the channels come last."""
    return shape[3] in CHANNELS


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[1], shape[2]) if _is_last(shape) else (shape[2], shape[3])


def flat(data: list[Any]) -> list[Any]:
    """The numbers or texts of nested lists, in their order.

    Raises:
        MalformedRequest: lists and others stand side by side.
    """
    # One level a turn, because a caller could nest deeper than Python recurses.
    while data and isinstance(data[0], list):
        if not all(isinstance(entry, list) for entry in data):
            raise MalformedRequest(
                "the input's data is nested unevenly: give it flat, or nested by its shape"
            )
        data = list(itertools.chain.from_iterable(data))
    return data


def images(
    data: memoryview | list[Any], shape: tuple[int, ...], datatype: str, spec: Input
) -> Batch:
    """The images uint8 (N, H, W, 3), RGB, of a tensor of a shape that `check_shape` passed.

    Raises:
        MalformedRequest: the data are not numbers of `datatype`, or not so many.
        InvalidParameter: a float is no value of a normalised image.
    """
    values = _array(data, shape, datatype)
    if not _is_last(shape):
        values = np.moveaxis(values, 1, 3)
    if values.dtype.kind == "f":
        values = _pixels(values.astype(np.result_type(values, np.float32)), spec)
    elif not 0 <= int(values.min()) <= int(values.max()) <= MOST:
        raise MalformedRequest(
            f"the input's values reach from {values.min()} to {values.max()}: {PIXELS}"
        )
    colours = np.broadcast_to(values, (*values.shape[:3], 3))
    return np.ascontiguousarray(colours, np.uint8)


def files(data: memoryview | list[Any], shape: tuple[int, int]) -> tuple[bytes, ...]:
    """The encoded images in the rows of UINT8 (N, bytes), as Triton's DALI backend takes them.

    Shorter ones have zeros behind their end, which decoders skip.

    Raises:
        MalformedRequest: the data are not bytes, or not so many.
    """
    return tuple(row.tobytes() for row in _array(data, shape, "UINT8"))


def _array(data: memoryview | list[Any], shape: tuple[int, ...], datatype: str) -> np.ndarray:
    dtype, count = np.dtype(DTYPES[datatype]), math.prod(shape)
    packed = isinstance(data, memoryview)
    found = len(data) // dtype.itemsize if packed else len(data)
    if found != count or (packed and len(data) % dtype.itemsize):
        raise MalformedRequest(
            f"the input has {found:,} values, but its shape has {count:,}: make them agree"
        )
    if isinstance(data, memoryview):
        return np.frombuffer(data, dtype).reshape(shape)
    is_float = dtype.kind == "f"
    kinds = {int, float} if is_float else {int}
    if not kinds.issuperset(map(type, data)):
        strange = next(value for value in data if type(value) not in kinds)
        wanted = "give numbers" if is_float else PIXELS
        raise MalformedRequest(f"the input's data hold {short(strange)}: {wanted}")
    try:
        return np.array(data, dtype).reshape(shape)
    except OverflowError:
        raise MalformedRequest(f"the input's data hold no {datatype} alone: {PIXELS}") from None


def _pixels(x: np.ndarray, spec: Input) -> np.ndarray:
    mean, std = (np.array(values, x.dtype) for values in (spec.mean, spec.std))
    pixels = 255 * (x * std + mean)
    if not np.isfinite(x).all() or pixels.min() < -SLACK or pixels.max() > MOST + SLACK:
        raise InvalidParameter(
            f"the input's values reach from {x.min():.4g} to {x.max():.4g}; floats are the "
            f"network's own input, (p / 255 - mean) / std of pixels p, with mean {spec.mean} and "
            f"std {spec.std}: normalise them so, or send UINT8 pixels"
        )
    return np.asarray(np.rint(pixels).clip(0, MOST))
