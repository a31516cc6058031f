"""The input of a foreign ONNX file: found by shape, or named by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, TensorProto, ValueInfoProto

CHANNELS, IMAGE_RANK, LOGITS_RANK = 3, 4, 2

Dims = list[int | None]


class ForeignError(Exception):
    """A file of which no bundle can be made; the message names the missing part and an option."""


@dataclass(frozen=True)
class Names:
    """Tensors that the caller names; None = found by shape."""

    input: str | None = None
    output: str | None = None
    cam_layer: str | None = None


def find_input(model: ModelProto, size: int, name: str | None) -> ValueInfoProto:
    """The input `name`, or the one float32 image of `size` × `size`, channels first or last.

    Raises:
        ForeignError: there is none or several, or it is not float32.
    """
    # Up to IR version 3, weights are listed as inputs, too.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in weights]
    matches = [
        info
        for info in inputs
        if (info.name == name if name is not None else _is_image(info, size))
    ]
    if len(matches) != 1:
        raise ForeignError(
            f"{len(matches)} inputs are float32 images of {size}×{size} with 3 channels; "
            f"there are {_listed(inputs)}: name one with --input, or correct --size"
        )
    image: ValueInfoProto = matches[0]
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ForeignError(
            f"the input {image.name} is not float32: "
            "export the network in float32, before any quantisation"
        )
    return image


def _is_image(info: ValueInfoProto, size: int) -> bool:
    dims = dims_of(info)
    if info.type.tensor_type.elem_type != TensorProto.FLOAT or len(dims) != IMAGE_RANK:
        return False
    layouts = (CHANNELS, size, size), (size, size, CHANNELS)
    return any(_matches(dims[1:], layout) for layout in layouts)


def _matches(dims: Dims, expected: Sequence[int]) -> bool:
    return all(dim in (None, size) for dim, size in zip(dims, expected, strict=True))


def is_channels_last(image: ValueInfoProto, size: int) -> bool:
    """True for (N, size, size, 3); with free dimensions, if the last is 3."""
    dims = dims_of(image)
    channels_first = _matches(dims[1:], (CHANNELS, size, size))
    return not channels_first or (dims[1] is None and dims[3] == CHANNELS)


def dims_of(info: ValueInfoProto) -> Dims:
    """The shape; None for a free dimension."""
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in info.type.tensor_type.shape.dim
    ]


def _listed(infos: Sequence[ValueInfoProto]) -> str:
    return ", ".join(f"{info.name} {dims_of(info)}" for info in infos)
