"""The input of a foreign ONNX file, of whichever kind, made that of a core.

`plain` finds the input by its shape or its name and rewrites the graph, so that it takes images
float32 (N, 3, H, W), RGB, normalised, with the batch as the file has it:

    channels last               a transpose in front
    one channel                 luma of ITU-R 601 in front, (19595 R + 38470 G + 7471 B) / 65536
    BGR                         its channels exchanged in front
    float16, bfloat16, float64  weights and constants become float32; from float64 they are rounded
    uint8                       becomes float32 of 0…255
    normalisation               arithmetic with constants behind the input: taken out of the graph,
                                with the exchange of its channels, and with a Clip to all pixels
    free height and width       those of --size

Pillow's "L" is the same luma rounded to whole levels. Here it is not rounded, so that it has a
gradient: it differs by at most half a level, and for grey pixels not at all.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from service.image.resize import Size, described, sides
from training.autodiff import prune
from training.export.ends import CHANNELS, IMAGE_RANK, Dims, ForeignError, dims_of, listed
from training.export.normalisation import (
    TO_FIRST,
    TO_LAST,
    Tensor,
    ints_of,
    metadata,
    normalisation,
    readers_of,
)
from training.export.source import LUMA, Asked, Source, given

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
OTHER_FLOATS = (*HALVES, TensorProto.DOUBLE)
FROM_DOUBLE = "the file computes in float64; the bundle in float32, with rounded weights"
TAKEN = (FLOAT, *OTHER_FLOATS, UINT8)
INPUT = "candor/image"  # where nodes stand before the file's own input
QUANTISED = ("DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv")


def plain(model: ModelProto, size: Size | None, name: str | None, asked: Asked) -> Source:
    """Makes the input of `model` that of a core, in place; the new one is its first input.

    Raises:
        ForeignError: there is no such input, or several, or one of a kind that is not taken.
    """
    info = _found(model, name)
    kind = info.type.tensor_type.elem_type
    source = _described(model, info, size, asked)
    if kind == UINT8:
        info.type.tensor_type.elem_type = FLOAT
        if any(node.op_type in QUANTISED for node in readers_of(model.graph, info.name)):
            raise ForeignError(
                f"the input {info.name} is quantised: give the file in float32, before any "
                "quantisation; python -m training quantise makes int8 of a bundle"
            )
    kinds = _in_float32(model)
    source = replace(
        source,
        half=not kinds.isdisjoint(HALVES),
        notes=(*source.notes, FROM_DOUBLE) if TensorProto.DOUBLE in kinds else source.notes,
    )
    tensor = Tensor(info.name, source.last, np.ones(1), np.zeros(1))
    if asked.mean is None and asked.std is None:
        tensor, source = normalisation(model, tensor, source, is_uint8=kind == UINT8)
    elif kind == UINT8:
        raise ForeignError(
            f"the input {info.name} is uint8, so the graph normalises pixels itself: leave out "
            "--mean and --std"
        )
    if not all(dims_of(info)[1:]):  # else it resizes the images that the network is made for
        _refuse_resize(model, tensor.name)
    _connect(model, tensor, source)
    return source


def _found(model: ModelProto, name: str | None) -> ValueInfoProto:
    """The input `name`, which may be a tensor inside, or the one input that is an image."""
    graph = model.graph
    # Up to IR version 3, weights are listed as inputs, too.
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in weights]
    if name is None:
        images = [info for info in inputs if _is_image(info)]
        matches = inputs if len(inputs) == 1 else images
    else:
        matches = [info for info in inputs if info.name == name] or _inside(model, name)
        if not matches:
            raise ForeignError(
                f"no input and no tensor inside is called {name}; the inputs are {listed(inputs)}"
            )
    if len(matches) != 1:
        raise ForeignError(
            f"{len(matches)} inputs are images (N, 3, H, W), (N, H, W, 3) or of one channel; "
            f"there are {listed(inputs)}: name one with --input"
        )
    image: ValueInfoProto = matches[0]
    kind = image.type.tensor_type.elem_type
    if kind not in TAKEN:
        raise ForeignError(
            f"the input {image.name} is {_type_name(kind)}, not of float32, float16, float64 or "
            "uint8: name the float tensor behind it with --input, or export the network again"
        )
    return image


def _inside(model: ModelProto, name: str) -> list[ValueInfoProto]:
    """The tensor `name` inside the graph, as a float32 input in place of the node that makes it."""
    graph = model.graph
    makers = [node for node in graph.node if name in node.output]
    known = [info for info in graph.value_info if info.name == name]
    for node in makers:
        if len(node.output) > 1:
            raise ForeignError(
                f"--input {name} is one of several outputs of {node.op_type}: name a tensor "
                "behind it"
            )
        graph.node.remove(node)
        inside = known[0] if known else ValueInfoProto(name=name)
        inside.type.tensor_type.elem_type = inside.type.tensor_type.elem_type or FLOAT
        graph.input.append(inside)
        return [graph.input[-1]]
    return []


def _is_image(info: ValueInfoProto) -> bool:
    dims = dims_of(info)
    if info.type.tensor_type.elem_type not in TAKEN or len(dims) != IMAGE_RANK:
        return False
    return any(channels in (1, CHANNELS, None) for channels in (dims[1], dims[3]))


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(cast("TensorProto.DataType", kind))).lower()


def _described(model: ModelProto, info: ValueInfoProto, size: Size | None, asked: Asked) -> Source:
    """The input as its shape says it, or where that is free the first convolution and `size`."""
    dims = dims_of(info)
    if len(dims) not in (0, IMAGE_RANK):
        batch = "no batch axis" if len(dims) == IMAGE_RANK - 1 else "another number of axes"
        raise ForeignError(
            f"the input {listed([info])} has {batch}: export the network for (N, 3, H, W)"
        )
    dims = dims or [None] * IMAGE_RANK
    last = _is_last(model, info.name, dims)
    channels = dims[3 if last else 1] or _channels_of_weights(model) or CHANNELS
    if channels not in (1, CHANNELS):
        raise ForeignError(
            f"the input {listed([info])} has {channels} channels; images have 3, or 1 of grey: "
            "export the network for these"
        )
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
    order = asked.order or ("bgr" if "Bgr" in metadata(model, "BitmapPixelFormat") else "rgb")
    mean, std = given(asked, order, channels)
    found = _size(info.name, dims[1:3] if last else dims[2:], size)
    return Source(info.name, kind, found, channels, order, last, dims[0], mean, std)


def _is_last(model: ModelProto, name: str, dims: Dims) -> bool:
    first, last = (dims[axis] in (1, CHANNELS) for axis in (1, 3))
    if first or last:
        return not first
    readers = readers_of(model.graph, name)
    return any(n.op_type == "Transpose" and ints_of(n, "perm") == TO_FIRST for n in readers)


def _channels_of_weights(model: ModelProto) -> int | None:
    """The channels that the first convolution takes, if its weights are in the file."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            channels = int(weights[node.input[1]].dims[1] * groups)
            return channels if channels in (1, CHANNELS) else None
    return None


def _size(name: str, theirs: Dims, size: Size | None) -> Size:
    """The size that the file fixes and `size` gives.

    Raises:
        ForeignError: neither says it, or they differ.
    """
    height, width = theirs
    if size is None:
        if height is None or width is None:
            raise ForeignError(
                f"the input {name} leaves height and width free: give --size, the side of the "
                "network's images in pixels, or HEIGHTxWIDTH"
            )
        return height if height == width else (height, width)
    rows, columns = sides(size)
    if height not in (None, rows) or width not in (None, columns):
        fixed = f"{height or 'any'} × {width or 'any'}"
        raise ForeignError(
            f"the input {name} takes images of {fixed} pixels, not of {described(size)}: "
            "correct --size, or leave it out"
        )
    return size


def _refuse_resize(model: ModelProto, name: str) -> None:
    for node in readers_of(model.graph, name):
        if node.op_type == "Resize" and len(node.input) == IMAGE_RANK and node.input[3]:
            raise ForeignError(
                "the file resizes its images itself, one at a time: name the tensor behind "
                f"Resize with --input {node.output[0]}, and its size with --size"
            )


def _connect(model: ModelProto, tensor: Tensor, source: Source) -> None:
    """Makes a new first input of the graph, and the nodes from there to `tensor`."""
    graph = model.graph
    nodes, weights = _bridge(tensor, source)
    start = nodes[0].input[0] if nodes else tensor.name
    others = [info for info in graph.input if info.name != source.name]
    shape = ("N" if source.batch is None else source.batch, CHANNELS, *sides(source.size))
    image = helper.make_tensor_value_info(start, FLOAT, shape)
    # What the file itself makes the tensor of is not needed any more.
    kept = [*nodes, *(node for node in graph.node if tensor.name not in node.output)]
    del graph.input[:], graph.node[:]
    graph.input.extend([image, *others])
    graph.node.extend(kept)
    graph.initializer.extend(weights)
    prune(model)


def refuse_others(model: ModelProto, others: Sequence[str]) -> None:
    """Checks that no node needs one of the inputs `others`.

    Raises:
        ForeignError: one does.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    needed = {name for node in model.graph.node for name in node.input} - weights
    for name in others:
        if name in needed:
            raise ForeignError(
                f"the answer depends on a second input, {name}: make it a constant of the file, "
                "or name a tensor behind both with --input"
            )


def _bridge(tensor: Tensor, source: Source) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes from INPUT, x, to `tensor`, with their constants; none where they are alike."""
    steps: list[tuple[str, dict[str, np.ndarray], dict[str, Any]]] = []
    if source.channels == 1:
        steps.append(("Mul", {"luma": LUMA.reshape(1, CHANNELS, 1, 1)}, {}))
        steps.append(("ReduceSum", {"axes": np.array([1])}, {"keepdims": 1}))
    elif (source.order == "bgr") != tensor.turned:
        steps.append(("Gather", {"order": np.array([2, 1, 0])}, {"axis": 1}))
    if tensor.last:
        steps.append(("Transpose", {}, {"perm": TO_LAST}))
    nodes, weights, name = [], [], INPUT
    for number, (operator, constants, attributes) in enumerate(steps):
        output = tensor.name if number == len(steps) - 1 else f"candor/{operator}"
        names = [f"candor/{constant}" for constant in constants]
        nodes.append(helper.make_node(operator, [name, *names], [output], **attributes))
        weights += [numpy_helper.from_array(v, f"candor/{k}") for k, v in constants.items()]
        name = output
    return nodes, weights


def _in_float32(model: ModelProto) -> set[int]:
    """Makes all other floats of the graph float32, in place; the types that there were."""
    graph = model.graph
    kinds = {tensor.data_type for tensor in graph.initializer} | {
        info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)
    }
    # A file of mixed precision has casts to half in the middle, and nothing else that shows it.
    # (Casts to float64 are shape arithmetic.)
    targets = {entry.i for node in graph.node for entry in node.attribute if entry.name == "to"}
    kinds |= targets.intersection(HALVES)
    if kinds.intersection(OTHER_FLOATS):
        _widen(graph)
    return kinds


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _as_float32(tensor)
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type in OTHER_FLOATS:
            info.type.tensor_type.elem_type = FLOAT
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(attribute)


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.HasField("t"):
        _as_float32(attribute.t)
    if attribute.HasField("g"):
        _widen(attribute.g)
    if attribute.name in ("to", "dtype") and attribute.i in OTHER_FLOATS:
        attribute.i = FLOAT


def _as_float32(tensor: TensorProto) -> None:
    if tensor.data_type in OTHER_FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
