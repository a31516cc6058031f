"""The input of a foreign ONNX file: found by shape, or named by the caller."""

from collections.abc import Sequence

from onnx import ModelProto, TensorProto, ValueInfoProto

from service.image.resize import Size, described, sides
from training.export.ends import CHANNELS, IMAGE_RANK, Dims, ForeignError, dims_of, listed


def find_input(model: ModelProto, size: Size, name: str | None) -> ValueInfoProto:
    """The input `name`, or the one float32 image of `size`, channels first or last.

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
            f"{len(matches)} inputs are float32 images of {described(size)} with 3 channels; "
            f"there are {listed(inputs)}: name one with --input, or correct --size"
        )
    image: ValueInfoProto = matches[0]
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ForeignError(
            f"the input {image.name} is not float32: "
            "export the network in float32, before any quantisation"
        )
    return image


def _is_image(info: ValueInfoProto, size: Size) -> bool:
    dims = dims_of(info)
    if info.type.tensor_type.elem_type != TensorProto.FLOAT or len(dims) != IMAGE_RANK:
        return False
    layouts = (CHANNELS, *sides(size)), (*sides(size), CHANNELS)
    return any(_matches(dims[1:], layout) for layout in layouts)


def _matches(dims: Dims, expected: Sequence[int]) -> bool:
    return all(dim in (None, size) for dim, size in zip(dims, expected, strict=True))


def is_channels_last(image: ValueInfoProto, size: Size) -> bool:
    """True for (N, H, W, 3); with free dimensions, if the last is 3."""
    dims = dims_of(image)
    channels_first = _matches(dims[1:], (CHANNELS, *sides(size)))
    return not channels_first or (dims[1] is None and dims[3] == CHANNELS)
