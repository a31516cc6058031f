"""The normalisation with which a foreign graph begins: what it does to its input, in numbers.

Behind the input stand arithmetic with constants, a change of layout, an exchange of red and blue,
a Clip, a Cast. `behind_constants` follows them to the last tensor that is still

    scale · input + offset        for each channel

so that they can be replaced by the normalisation of a bundle. A Clip that cuts no pixel changes
nothing. A BatchNormalization, or a convolution of single pixels and channels, is one of pixels
where its mean and its deviation are those of levels of 0…255 (MXNet and Caffe begin with such a
one); else it is a layer. Channels that are split, scaled each for itself and joined again are
followed, too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from training.autodiff import constants_of, opset_of
from training.autodiff.model import SMALL
from training.export.ends import CHANNELS, IMAGE_RANK
from training.export.source import Source, triple

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
ARITHMETIC = ("Add", "BatchNormalization", "Clip", "Concat", "Conv", "Div", "Mul", "Sub")
# What is computed of constants before it reaches the image.
# fmt: off
COMPUTED = {
    "Add", "Cast", "Concat", "Div", "Expand", "Flatten", "Gather", "Identity", "Mul", "Neg", "Pow",
    "Reciprocal", "Reshape", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
}
# fmt: on
ROUNDING = 1e-3  # of the largest pixel, to which a Clip may cut
# Of pixels in 0…255: below them the values of a BatchNormalization are those of a normalised image.
LEAST_MEAN, LEAST_DEVIATION = 8, 16

# Mean and standard deviation, of pixels in 0…1, by Image.NominalPixelRange.
RANGES = {
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}

Constants = dict[str, np.ndarray]


class Tensor(NamedTuple):
    """A tensor behind the input: `scale` · input + `offset`, for each channel or for all.

    `turned`: its channels are those of the input in the opposite order. The input is cut below
    `lowest` and above `highest`.
    """

    name: str
    last: bool
    scale: Float64[np.ndarray, " channels"]
    offset: Float64[np.ndarray, " channels"]
    turned: bool = False
    lowest: float = -np.inf
    highest: float = np.inf

    @property
    def mean_and_std(self) -> tuple[Float64[np.ndarray, " _"], Float64[np.ndarray, " _"]]:
        """Those of the input that become 0 and 1 here, in the order of the input's channels."""
        mean, std = (0.0 - self.offset) / self.scale, 1 / self.scale
        return (mean[::-1], std[::-1]) if self.turned else (mean, std)

    @property
    def is_same(self) -> bool:
        """True if nothing was done to the values of the input."""
        return bool((self.scale == 1).all() and (self.offset == 0).all()) and not self.is_cut

    @property
    def is_cut(self) -> bool:
        """True if the input is cut."""
        return self.highest < np.inf


def normalisation(
    model: ModelProto, start: Tensor, source: Source, *, is_uint8: bool
) -> tuple[Tensor, Source]:
    """The tensor behind the graph's own normalisation, and the source with that of the file."""
    tensor = behind_constants(model, start, source.channels)
    if tensor.is_cut and not is_of_pixels(tensor, unit_of(tensor, is_uint8=is_uint8)):
        tensor = behind_constants(model, start, source.channels, cut=False)
    if not is_uint8 and (tensor.is_same or is_of_no_pixels(tensor)):
        tensor = behind_constants(model, start, source.channels, scaled=False)
        return tensor, _stated(model, source)
    (mean, std), unit = tensor.mean_and_std, unit_of(tensor, is_uint8=is_uint8)
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


def behind_constants(
    model: ModelProto, tensor: Tensor, channels: int, *, cut: bool = True, scaled: bool = True
) -> Tensor:
    """The last tensor that arithmetic with constants, or a change of order, makes of `tensor`.

    Not behind a Clip without `cut`, and not behind arithmetic without `scaled`.
    """
    constants = _constants(model)
    ends = {output.name for output in model.graph.output}
    found = tensor
    while tensor.name not in ends:
        node, following = _following(model.graph, tensor, constants, channels)
        if node is None or following is None or (following.is_cut and not cut):
            break
        if not (scaled or following.is_same):
            break
        before, tensor = tensor, following
        is_ordered = tensor.turned != before.turned or (before.last and not tensor.last)
        if node.op_type in ARITHMETIC or is_ordered:
            found = tensor
    return found


def _following(
    graph: GraphProto, tensor: Tensor, constants: Constants, channels: int
) -> tuple[NodeProto | None, Tensor | None]:
    """The node behind `tensor`, or behind its channels, and what it makes; None if none fits."""
    joined = _joined(graph, tensor, constants, channels)
    readers = readers_of(graph, tensor.name)
    if joined is not None or len(readers) != 1:
        return joined or (None, None)
    return readers[0], _step(readers[0], tensor, constants, channels)


def _step(node: NodeProto, tensor: Tensor, constants: Constants, channels: int) -> Tensor | None:
    """The tensor that `node` makes of `tensor`; None if it is no scaling by a positive constant."""
    result = tensor._replace(name=node.output[0])
    match node.op_type:
        case "Identity" | "Cast":
            is_float = all(entry.i == TensorProto.FLOAT for entry in node.attribute)
            following = result if is_float else None
        case "Transpose":
            is_move = ints_of(node, "perm") == (TO_FIRST if tensor.last else TO_LAST)
            following = result._replace(last=not tensor.last) if is_move else None
        case "Gather" | "Slice":
            following = _turned(node, result, constants, channels)
        case "Clip":
            following = _cut(node, result, constants)
        case "BatchNormalization" | "Conv":
            following = _normalised(node, result, constants)
        case _:
            following = _scaled(node, tensor, constants, channels)
    return following


def _scaled(node: NodeProto, tensor: Tensor, constants: Constants, channels: int) -> Tensor | None:
    is_first = node.input[0] == tensor.name
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
    return tensor._replace(
        name=node.output[0],
        scale=tensor.scale * factor,
        offset=tensor.offset * factor + term,
    )


def _turned(node: NodeProto, tensor: Tensor, constants: Constants, channels: int) -> Tensor | None:
    """`tensor` with its three channels in the opposite order, if `node` does that alone."""
    if channels != CHANNELS or not all(name in constants for name in node.input[1:]):
        return None
    axes = {3, -1} if tensor.last else {1, -3}
    values = [constants[name].reshape(-1).tolist() for name in node.input[1:]]
    if node.op_type == "Gather":
        axis = next((attribute.i for attribute in node.attribute), 0)
        is_turn = axis in axes and values == [[2, 1, 0]]
    elif [len(each) for each in values] == [1] * 4:
        (start,), (end,), (axis,), (step,) = values
        is_whole = (start == -1 or start >= CHANNELS - 1) and end < -CHANNELS
        is_turn = axis in axes and step == -1 and is_whole
    else:
        is_turn = False
    scale, offset = tensor.scale[::-1], tensor.offset[::-1]
    return (
        tensor._replace(turned=not tensor.turned, scale=scale, offset=offset) if is_turn else None
    )


def _cut(node: NodeProto, tensor: Tensor, constants: Constants) -> Tensor | None:
    """`tensor` behind the Clip `node`, if its bounds are two constants."""
    bounds = [constants[name] for name in node.input[1:] if name in constants]
    if len(bounds) != 2:  # noqa: PLR2004
        return None
    lowest, highest = ((bound.reshape(-1)[0] - tensor.offset) / tensor.scale for bound in bounds)
    return tensor._replace(
        lowest=max(tensor.lowest, float(lowest.max())),
        highest=min(tensor.highest, float(highest.min())),
    )


def _normalised(node: NodeProto, tensor: Tensor, constants: Constants) -> Tensor | None:
    """`tensor` behind a layer that normalises pixels of 0…255: the first one of MXNet and Caffe.

    It is a BatchNormalization, or a convolution that sees each pixel of each channel alone.
    """
    if tensor.last or not (tensor.is_same and all(name in constants for name in node.input[1:])):
        return None
    values = [constants[name].astype(np.float64) for name in node.input[1:]]
    if node.op_type == "Conv":
        is_pixelwise = values[0].shape == (CHANNELS, 1, 1, 1) and not any(ints_of(node, "pads"))
        if not is_pixelwise or len(values) == 1 or {*ints_of(node, "strides")} - {1}:
            return None
        scale, offset = values[0].reshape(-1), values[1]
    else:
        weight, bias, mean, variance = values
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = weight / np.sqrt(variance + epsilon)
        offset = bias - mean * scale
    if not (scale > 0).all():
        return None
    found = tensor._replace(scale=scale, offset=offset)
    middle, deviation = found.mean_and_std
    return found if middle.max() >= LEAST_MEAN and deviation.min() >= LEAST_DEVIATION else None


def _joined(
    graph: GraphProto, tensor: Tensor, constants: Constants, channels: int
) -> tuple[NodeProto, Tensor] | None:
    """The Concat that joins the channels again, each scaled for itself, and its tensor."""
    axis = 3 if tensor.last else 1
    names = _split(graph, tensor, axis, constants, channels)
    scales, offsets = (np.broadcast_to(v, channels) for v in (tensor.scale, tensor.offset))
    parts = []
    for name, scale, offset in zip(names, scales, offsets, strict=False):
        part = tensor._replace(name=name, scale=scale[None], offset=offset[None])
        while len(readers := readers_of(graph, part.name)) == 1:
            following = _scaled(readers[0], part, constants, 1)
            if following is None:
                break
            part = following
        parts.append((part, readers))
    ends = [readers[0] if len(readers) == 1 else None for _, readers in parts]
    join = ends[0] if ends else None
    if join is None or join.op_type != "Concat" or any(end is not join for end in ends):
        return None
    made = [part.name for part, _ in parts]
    turned = list(join.input) == made[::-1]
    at = next(a.i for a in join.attribute if a.name == "axis")
    if at % IMAGE_RANK != axis or not (turned or list(join.input) == made):
        return None
    order = -1 if turned else 1
    joined = tensor._replace(
        name=join.output[0],
        scale=np.concatenate([part.scale for part, _ in parts])[::order],
        offset=np.concatenate([part.offset for part, _ in parts])[::order],
        turned=tensor.turned != turned,
    )
    return join, joined


def _split(
    graph: GraphProto, tensor: Tensor, axis: int, constants: Constants, channels: int
) -> list[str]:
    """The tensors of the single channels of `tensor`, in their order; none if it is not split."""
    readers = readers_of(graph, tensor.name)
    if channels != CHANNELS:
        return []
    if len(readers) == 1 and readers[0].op_type == "Split":
        (node,) = readers
        at = next((a.i for a in node.attribute if a.name == "axis"), 0)
        is_even = at % IMAGE_RANK == axis and len(node.output) == CHANNELS
        return list(node.output) if is_even else []
    found: dict[int, str] = {}
    for node in readers:
        values = [constants.get(name, np.ones(0)).reshape(-1).tolist() for name in node.input[1:4]]
        if node.op_type == "Slice" and [len(each) for each in values] == [1, 1, 1]:
            (start,), (end,), (at,) = values
            if at % IMAGE_RANK == axis and end == start + 1:
                found[start] = node.output[0]
    is_whole = sorted(found) == list(range(CHANNELS)) and len(readers) == CHANNELS
    return [found[start] for start in range(CHANNELS)] if is_whole else []


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


def _constants(model: ModelProto) -> Constants:
    """The values of small weights and constants, by name, and of what is computed of them alone."""
    constants = {
        name: numpy_helper.to_array(tensor)
        for name, tensor in constants_of(model).items()
        if np.prod(tensor.dims) <= SMALL
    }
    opsets = {"": opset_of(model)}
    for node in model.graph.node:
        if node.op_type in COMPUTED and all(name in constants for name in node.input if name):
            # Exporters write −mean as Neg, and 1/std as Reciprocal or Div.
            inputs = {name: constants[name] for name in node.input if name}
            answers = ReferenceEvaluator(node, opsets).run(None, inputs)
            constants |= dict(zip(node.output, map(np.asarray, answers), strict=True))
    return constants


def unit_of(tensor: Tensor, *, is_uint8: bool) -> float:
    """The value of a white pixel in the input, 1 or 255."""
    # Pixels of 0…1 have a mean and a deviation below 1.
    largest = max(values.max() for values in tensor.mean_and_std)
    is_above = largest > 1 or 1 < tensor.highest < np.inf
    return 255.0 if is_uint8 or is_above else 1.0


def is_of_pixels(tensor: Tensor, unit: float) -> bool:
    """True if no pixel of 0…`unit` is cut."""
    return tensor.lowest <= unit * ROUNDING and tensor.highest >= unit * (1 - ROUNDING)


def is_of_no_pixels(tensor: Tensor) -> bool:
    """True if it scales what is normalised already, as torchvision's Inception does.

    Its mean is not one of 0…255, and its deviation is neither one of 0…1 nor one of 0…255.
    """
    mean, std = tensor.mean_and_std
    return bool(np.abs(mean).max() <= 1 < std.max() < LEAST_DEVIATION)


def readers_of(graph: GraphProto, name: str) -> list[NodeProto]:
    """The nodes that read the tensor `name`."""
    return [node for node in graph.node if name in node.input]


def ints_of(node: NodeProto, name: str) -> list[int]:
    """The attribute `name` of `node`; empty if it has none."""
    return next((list(a.ints) for a in node.attribute if a.name == name), [])
