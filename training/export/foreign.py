"""Any float32 ONNX image classifier → the core that a bundle is made of, whoever exported it.

What differs between exporters is put right, and nothing else is touched; weights are kept bit for bit:

    the input and the output are found by shape, or named        names become x and logits
    channels last (TensorFlow, Keras)                            a transpose in front
    a fixed batch                                                freed, in Reshape's constants too
    softmax at the end                                           logits are tapped before it
    shape arithmetic over constants                              folded
    local functions                                              inlined

The features are what the last linear layer reads; the layer of the class activation map is the last one that still has pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
    version_converter,
)
from onnxscript import ir
from onnxscript.optimizer import fold_constants

from training.autodiff import prune
from training.autodiff.graph import NEWEST_OPSET, OLDEST_OPSET, with_shapes
from training.export.ours import IR_VERSION, Core

CHANNELS, IMAGE_RANK, LOGITS_RANK = 3, 4, 2
LATE = 0.1  # a last convolution in the first tenth of the network (a patch embedding) has no late pixels
POINTWISE = (
    *(
        "Add",
        "BatchNormalization",
        "Celu",
        "Clip",
        "Concat",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Mish",
        "Mul",
    ),
    *(
        "PRelu",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Sub",
        "Sum",
        "Tanh",
        "Div",
        "Erf",
        "Dropout",
        "LayerNormalization",
        "Transpose",
    ),
)


class ForeignError(Exception):
    """A file is no classifier that a bundle can be made of; the message says what is missing and how to name it."""


@dataclass(frozen=True)
class Names:
    """Tensors that the caller names; None = found by shape."""

    input: str | None = None
    output: str | None = None
    cam_layer: str | None = None


def read_core(path: Path, size: int, classes: int, names: Names) -> Core:
    """The core of the classifier in `path` for images of `size` × `size` and `classes` labels.

    Raises:
        ForeignError: it is none, or its tensors cannot be found.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - onnx and protobuf raise what they like on damaged bytes
        raise ForeignError(f"{path} is no ONNX file ({str(error).splitlines()[0][:100]})") from None
    model = _modern(inliner.inline_local_functions(model) if model.functions else model)
    image = _input(model, size, names.input)
    channels_last = _channels_last(image, size)
    output = _output(model, classes, names.output)
    output = _before_softmax(model, output)
    _free_batch(model, image, size, channels_last=channels_last)
    model = _folded(model)
    return _core(
        model, image.name, output, size, classes, names.cam_layer, channels_last=channels_last
    )


def _modern(model: ModelProto) -> ModelProto:
    """The model in an opset that is differentiated."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if OLDEST_OPSET <= opset <= NEWEST_OPSET:
        return model
    try:
        return version_converter.convert_version(
            model, OLDEST_OPSET if opset < OLDEST_OPSET else NEWEST_OPSET
        )
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError and more
        told = f"the graph has opset {opset}, which cannot be converted to {OLDEST_OPSET} to {NEWEST_OPSET}"
        raise ForeignError(
            f"{told} ({str(error).splitlines()[0][:100]}): export it again"
        ) from None


def _input(model: ModelProto, size: int, name: str | None) -> ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in weights]
    found = [
        info
        for info in inputs
        if (info.name == name if name is not None else _is_image(info, size))
    ]
    if len(found) != 1:
        listed = ", ".join(f"{info.name} {_dims(info)}" for info in inputs)
        raise ForeignError(
            f"{len(found)} inputs are float32 images of {size}×{size} with 3 channels; there are {listed}: "
            "name one with --input, or correct --size"
        )
    if found[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ForeignError(
            f"the input {found[0].name} is not float32: export the network in float32, before any quantisation"
        )
    image: ValueInfoProto = found[0]
    return image


def _is_image(info: ValueInfoProto, size: int) -> bool:
    dims = _dims(info)
    if info.type.tensor_type.elem_type != TensorProto.FLOAT or len(dims) != IMAGE_RANK:
        return False
    return any(
        _fits(dims[1:], wanted) for wanted in ((CHANNELS, size, size), (size, size, CHANNELS))
    )


def _fits(dims: Sequence[int | None], wanted: Sequence[int]) -> bool:
    return all(given in (None, expected) for given, expected in zip(dims, wanted, strict=True))


def _channels_last(image: ValueInfoProto, size: int) -> bool:
    dims = _dims(image)
    return not _fits(dims[1:], (CHANNELS, size, size)) or (dims[1] is None and dims[3] == CHANNELS)


def _dims(info: ValueInfoProto) -> list[int | None]:
    """The shape; None for what is free."""
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in info.type.tensor_type.shape.dim
    ]


def _output(model: ModelProto, classes: int, name: str | None) -> str:
    outputs = list(model.graph.output)
    found = [
        info
        for info in outputs
        if (info.name == name if name is not None else _is_logits(info, classes))
    ]
    if name is None and not found and len(outputs) == 1:
        found = (
            outputs  # a shape that only inference knows; the check of the core's shape judges it
        )
    if len(found) != 1:
        listed = ", ".join(f"{info.name} {_dims(info)}" for info in outputs)
        raise ForeignError(
            f"{len(found)} outputs are float32 (N, {classes}); there are {listed}: name one with --output, or correct --labels"
        )
    return str(found[0].name)


def _is_logits(info: ValueInfoProto, classes: int) -> bool:
    dims = _dims(info)
    return (
        info.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(dims) == LOGITS_RANK
        and dims[1] in (None, classes)
    )


def _before_softmax(model: ModelProto, output: str) -> str:
    """The tensor that a last softmax reads, if there is one."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node: NodeProto | None = makers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = makers.get(node.input[0])
    return (
        str(node.input[0])
        if node is not None and node.op_type in ("Softmax", "LogSoftmax")
        else output
    )


def _free_batch(
    model: ModelProto, image: ValueInfoProto, size: int, *, channels_last: bool
) -> None:
    """Makes the first dimension free, in place: of the input, and of every Reshape whose constant says the batch."""
    batch = _dims(image)[0]
    shape: list[str | int | None] = (
        ["N", size, size, CHANNELS] if channels_last else ["N", CHANNELS, size, size]
    )
    image.CopyFrom(helper.make_tensor_value_info(image.name, TensorProto.FLOAT, shape))
    del model.graph.value_info[:]
    for info in model.graph.output:
        if info.type.tensor_type.shape.dim:
            info.type.tensor_type.shape.dim[0].dim_param = "N"
    if batch is not None:
        _free_reshapes(model, batch)


def _free_reshapes(model: ModelProto, batch: int) -> None:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {
        n.output[0]: n.attribute[0].t
        for n in model.graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for name, tensor in (weights | constants).items():
        value = numpy_helper.to_array(tensor) if name in shapes else None
        if value is not None and value.size > 1 and value[0] == batch and value.min() >= -1:
            freed = value.copy()
            freed[0] = 0  # as many as there are
            tensor.CopyFrom(numpy_helper.from_array(freed, tensor.name))


def _folded(model: ModelProto) -> ModelProto:
    """Shape arithmetic over constants computed; weights are too large to be touched."""
    folded = ir.from_proto(model)
    fold_constants(folded, onnx_shape_inference=True, input_size_limit=4096, output_size_limit=4096)
    return ir.to_proto(folded)


def _core(
    model: ModelProto,
    image: str,
    output: str,
    size: int,
    classes: int,
    cam_layer: str | None,
    *,
    channels_last: bool,
) -> Core:
    _rename(model, {image: "theirs/image" if channels_last else "x", output: "logits"})
    if channels_last:
        model.graph.node.insert(
            0, helper.make_node("Transpose", ["x"], ["theirs/image"], perm=[0, 2, 3, 1])
        )
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS, size, size])
    )
    model.graph.output.append(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    )
    prune(model)
    shapes = _shapes(model, classes)
    features, width = _features(model, shapes)
    activation = cam_layer or _last_with_pixels(model, shapes)
    if activation is not None and len(shapes.get(activation, [])) != IMAGE_RANK:
        raise ForeignError(f"--cam-layer {activation} names no tensor (N, C, h, w) of the graph")
    if features is not None:
        model.graph.node.append(helper.make_node("Identity", [features], ["features"]))
        model.graph.output.append(
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])
        )
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    onnx.checker.check_model(model, full_check=True)
    return Core(model, width, activation)


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Renames tensors, in place; whatever had the new name before gets another."""
    taken = {new: f"theirs/{new}" for new in (*names.values(), "x", "features") if new not in names}
    mapping = taken | names
    for node in model.graph.node:
        for place in (node.input, node.output):
            for index, name in enumerate(place):
                place[index] = mapping.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = mapping.get(tensor.name, tensor.name)


def _shapes(model: ModelProto, classes: int) -> dict[str, list[int | None]]:
    try:
        inferred = with_shapes(model, strict=True).graph
    except onnx.shape_inference.InferenceError as error:
        told = str(error).strip().splitlines()[-1][:160]
        raise ForeignError(
            f"the output does not have {classes} classes, or the graph needs another image size: {told}"
        ) from None
    return {
        info.name: _dims(info) for info in (*inferred.value_info, *inferred.input, *inferred.output)
    }


def _features(
    model: ModelProto, shapes: dict[str, list[int | None]]
) -> tuple[str | None, int | None]:
    """What the last linear layer reads, and its width D, if it is (N, D)."""
    linear = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    if not linear or linear[-1].input[1] not in weights:
        return None, None
    node = linear[-1]
    turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    known = node.op_type == "Gemm" or len(shapes.get(node.input[0], [])) == LOGITS_RANK
    return (
        (str(node.input[0]), int(weights[node.input[1]].dims[int(turned)]))
        if known
        else (None, None)
    )


def _last_with_pixels(model: ModelProto, shapes: dict[str, list[int | None]]) -> str | None:
    """The last tensor (N, C, h, w) with several pixels that the last such convolution reaches by pointwise steps."""
    nodes = list(model.graph.node)

    def pixels(name: str) -> list[int | None]:
        shape = shapes.get(name, [])
        return (
            shape[2:]
            if len(shape) == IMAGE_RANK and (shape[2] or 0) > 1 and (shape[3] or 0) > 1
            else []
        )

    places = [
        index
        for index, node in enumerate(nodes)
        if node.op_type == "Conv" and pixels(node.output[0])
    ]
    if not places or places[-1] < LATE * len(nodes):
        return None
    last = str(nodes[places[-1]].output[0])
    reached = {last}
    for node in nodes[places[-1] + 1 :]:
        if (
            node.op_type in POINTWISE
            and reached.intersection(node.input)
            and pixels(node.output[0]) == pixels(last)
        ):
            last = str(node.output[0])
            reached.add(last)
    return last
