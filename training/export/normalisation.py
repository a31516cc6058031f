"""The normalisation that a foreign ONNX file begins with, or states in its metadata.

Arithmetic with constants behind the input is followed as scale · input + offset. What it amounts to
is taken out of the graph and becomes the bundle's; where there is none it is ImageNet's.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from training.export.ends import CHANNELS, IMAGE_RANK
from training.export.source import Source, triple

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # transposes of (N, C, H, W) and back
# Mean and standard deviation, of pixels in 0…1, by Image.NominalPixelRange.
RANGES = {
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


class Tensor(NamedTuple):
    """A tensor behind the input: `scale` · input + `offset`, for each channel or for all."""

    name: str
    last: bool
    scale: Float64[np.ndarray, " channels"]
    offset: Float64[np.ndarray, " channels"]


def normalisation(
    model: ModelProto, start: Tensor, source: Source, *, is_uint8: bool
) -> tuple[Tensor, Source]:
    """The tensor behind the graph's own normalisation, and the source with that of the file."""
    tensor = _behind_constants(model, start, source.channels)
    unchanged = bool((tensor.scale == 1).all() and (tensor.offset == 0).all())
    if unchanged and not is_uint8:
        return tensor, _stated(model, source)
    mean, std = (0.0 - tensor.offset) / tensor.scale, 1 / tensor.scale
    # Pixels of 0…1 have a mean and a deviation below 1.
    unit = 255.0 if is_uint8 or max(mean.max(), std.max()) > 1 else 1.0
    found = replace(
        source,
        mean=triple(tuple(mean / unit), source.order),
        std=triple(tuple(std / unit), source.order),
        unit=unit,
    )
    note = (
        f"the file takes pixels of 0…{unit:.0f} and normalises them itself: mean "
        f"{_listed(found.mean)}, std {_listed(found.std)} of pixels in 0…1"
    )
    return tensor, replace(found, notes=(*found.notes, note))


def _stated(model: ModelProto, source: Source) -> Source:
    """The source with the normalisation of the file's metadata; ImageNet's is assumed without."""
    stated = RANGES.get(metadata(model, "NominalPixelRange"))
    if stated is None:
        return replace(source, notes=(*source.notes, _assumed(source)))
    mean, std = (triple((value,), "rgb") for value in stated)
    note = "the normalisation is that of the file's metadata, Image.NominalPixelRange"
    return replace(source, mean=mean, std=std, notes=(*source.notes, note))


def metadata(model: ModelProto, key: str) -> str:
    """The value of Image.`key` in the metadata (ONNX, MetadataProps.md); "" if there is none."""
    return next((each.value for each in model.metadata_props if each.key == f"Image.{key}"), "")


def _assumed(source: Source) -> str:
    return (
        f"the file does not say how its images are normalised: mean {_listed(source.mean)} and "
        f"std {_listed(source.std)} are assumed, which are ImageNet's; --mean and --std change them"
    )


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _behind_constants(model: ModelProto, tensor: Tensor, channels: int) -> Tensor:
    """The last tensor that arithmetic with constants, or a transpose, makes of `tensor`."""
    constants = _constants(model)
    ends = {output.name for output in model.graph.output}
    found = tensor
    while tensor.name not in ends and len(readers := readers_of(model.graph, tensor.name)) == 1:
        following = _step(readers[0], tensor, constants, channels)
        if following is None:
            break
        was_last, tensor = tensor.last, following
        if readers[0].op_type in ARITHMETIC or (was_last and not tensor.last):
            found = tensor
    return found


def _step(
    node: NodeProto, tensor: Tensor, constants: dict[str, np.ndarray], channels: int
) -> Tensor | None:
    """The tensor that `node` makes of `tensor`; None if it is no scaling by a positive constant."""
    is_first, result = node.input[0] == tensor.name, tensor._replace(name=node.output[0])
    if node.op_type == "Identity" or (
        node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
    ):
        return result
    if node.op_type == "Transpose" and ints_of(node, "perm") == (
        TO_FIRST if tensor.last else TO_LAST
    ):
        return result._replace(last=not tensor.last)
    other = constants.get(node.input[1 if is_first else 0]) if len(node.input) == 2 else None  # noqa: PLR2004
    by_channel = None if other is None else _by_channel(other, channels, last=tensor.last)
    if by_channel is None:
        return None
    factor, term, is_positive = np.ones(1), np.zeros(1), (by_channel > 0).all()
    match (node.op_type, is_first):
        case ("Add", _):
            term = by_channel
        case ("Sub", True):
            term = -by_channel
        case ("Mul", _) if is_positive:
            factor = by_channel
        case ("Div", True) if is_positive:
            factor = 1 / by_channel
        case _:
            return None
    return result._replace(scale=tensor.scale * factor, offset=tensor.offset * factor + term)


def _by_channel(
    constant: np.ndarray, channels: int, *, last: bool
) -> Float64[np.ndarray, " channels"] | None:
    """`constant` as one value, or one for each channel; None if it is neither."""
    shape = (1,) * (IMAGE_RANK - constant.ndim) + constant.shape
    axis = 3 if last else 1
    is_even = all(side == 1 for place, side in enumerate(shape) if place != axis)
    if len(shape) != IMAGE_RANK or not is_even or shape[axis] not in (1, channels):
        return None
    return constant.astype(np.float64).reshape(-1)


def _constants(model: ModelProto) -> dict[str, np.ndarray]:
    """The values of weights and constants, by name, of at most a value for each channel."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer} | {
        node.output[0]: node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if np.prod(tensor.dims) <= CHANNELS
    }


def readers_of(graph: GraphProto, name: str) -> list[NodeProto]:
    """The nodes that read the tensor `name`."""
    return [node for node in graph.node if name in node.input]


def ints_of(node: NodeProto, name: str) -> list[int]:
    """The attribute `name`, a list of integers; empty if the node has none."""
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
