"""The core of any float32 ONNX image classifier, from whichever exporter.

Differences between exporters are put right. Nothing else is touched; weights are kept bit for bit:

    input and output                    found by shape, or named; renamed to x and logits
    channels last (TensorFlow, Keras)   a transpose in front
    a fixed batch                       freed, in the constants of Reshape, too
    softmax at the end                  logits are tapped before it
    shape arithmetic over constants     folded
    local functions                     inlined

Features are the input of the last linear layer. `training.export.layers` finds the layer of the
class activation map.
"""

import re
from pathlib import Path

import onnx
from onnx import (
    ModelProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
    version_converter,
)
from onnxscript import ir
from onnxscript.optimizer import fold_constants

from training.autodiff import NEWEST_OPSET, OLDEST_OPSET, opset_of, prune, with_shapes
from training.export import layers
from training.export.core import ACTIVATION, IR_VERSION, Core
from training.export.ends import (
    CHANNELS,
    LOGITS_RANK,
    Dims,
    ForeignError,
    Names,
    before_softmax,
    dims_of,
    find_input,
    find_output,
    is_channels_last,
)

__all__ = ["CHANNELS", "ForeignError", "Names", "read_core", "weights_of"]

PUBLISHED = re.compile("(?P<name>.+) sha256 (?P<sha256>[0-9a-f]{64})")  # training.export.weights

RESERVED = ("x", "logits", "features", ACTIVATION)  # tensors of a core

Shapes = dict[str, Dims]


def read_core(path: Path, size: int, classes: int, names: Names) -> Core:
    """The core of the classifier in `path` for images of `size` × `size` and `classes` labels.

    Raises:
        ForeignError: the file is no such classifier, or its tensors cannot be found.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - onnx and protobuf raise many types on damaged bytes
        raise ForeignError(f"{path} is no ONNX file ({_first_line(error)})") from None
    model = _converted(inliner.inline_local_functions(model) if model.functions else model)
    image = find_input(model, size, names.input)
    channels_last = is_channels_last(image, size)
    output = before_softmax(model, find_output(model, classes, names.output))
    _free_batch(model, image, size, channels_last=channels_last)
    model = _folded(model)
    renamed = _rename_ends(model, image.name, output, channels_last=channels_last)
    _set_ends(model, size, classes, channels_last=channels_last)
    cam_layer = names.cam_layer and renamed.get(names.cam_layer, names.cam_layer)
    return _core(model, classes, cam_layer)


def weights_of(path: Path) -> dict[str, dict[str, str]]:
    """Name and sha256 of the weights that the file names in its metadata, if it does."""
    properties = onnx.load(path).metadata_props
    text = next((entry.value for entry in properties if entry.key == "weights"), "")
    match = PUBLISHED.fullmatch(text)
    return {"weights": match.groupdict()} if match else {}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:100]


def _converted(model: ModelProto) -> ModelProto:
    """The model in an opset that can be differentiated."""
    opset = opset_of(model)
    if OLDEST_OPSET <= opset <= NEWEST_OPSET:
        return model
    nearest = OLDEST_OPSET if opset < OLDEST_OPSET else NEWEST_OPSET
    try:
        return version_converter.convert_version(model, nearest)
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError and more
        raise ForeignError(
            f"the graph has opset {opset}, which cannot be converted to "
            f"{OLDEST_OPSET} to {NEWEST_OPSET} ({_first_line(error)}): export it again"
        ) from None


def _free_batch(
    model: ModelProto, image: ValueInfoProto, size: int, *, channels_last: bool
) -> None:
    """Makes the first dimension free, in place: of the input, and in the constants of Reshape."""
    batch = dims_of(image)[0]
    sides = (size, size, CHANNELS) if channels_last else (CHANNELS, size, size)
    image.CopyFrom(_float32(image.name, "N", *sides))
    del model.graph.value_info[:]
    for info in model.graph.output:
        if info.type.tensor_type.shape.dim:
            info.type.tensor_type.shape.dim[0].dim_param = "N"
    if batch is not None:
        for tensor in _reshape_constants(model):
            _free_first(tensor, batch)


def _reshape_constants(model: ModelProto) -> list[TensorProto]:
    """The constants that some Reshape takes as its shape."""
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    nodes = [
        node.attribute[0].t
        for node in model.graph.node
        if node.op_type == "Constant"
        and node.attribute[0].name == "value"
        and node.output[0] in shapes
    ]
    return [*(tensor for tensor in model.graph.initializer if tensor.name in shapes), *nodes]


def _free_first(tensor: TensorProto, batch: int) -> None:
    shape = numpy_helper.to_array(tensor)
    if shape.size > 1 and shape[0] == batch and shape.min() >= -1:
        freed = shape.copy()
        freed[0] = 0  # Reshape takes a 0 as "the same size as before"
        tensor.CopyFrom(numpy_helper.from_array(freed, tensor.name))


def _folded(model: ModelProto) -> ModelProto:
    """The model with its shape arithmetic over constants computed."""
    folded = ir.from_proto(model)
    # Shapes are small; the limits keep the folder away from weights.
    fold_constants(folded, onnx_shape_inference=True, input_size_limit=4096, output_size_limit=4096)
    return ir.to_proto(folded)


def _rename_ends(
    model: ModelProto, image: str, output: str, *, channels_last: bool
) -> dict[str, str]:
    """Renames input and output, in place, and tensors that have a reserved name; old → new."""
    names = {name: f"theirs/{name}" for name in RESERVED}
    names |= {image: "theirs/image" if channels_last else "x", output: "logits"}
    _rename(model, names)
    return names


def _set_ends(model: ModelProto, size: int, classes: int, *, channels_last: bool) -> None:
    """Makes `model`, in place, a graph from x to logits, and drops all that logits do not need."""
    graph = model.graph
    if channels_last:
        transpose = helper.make_node("Transpose", ["x"], ["theirs/image"], perm=[0, 2, 3, 1])
        graph.node.insert(0, transpose)
    # Shapes of tensors that are ends now: ends have theirs below.
    inside = [info for info in graph.value_info if info.name not in ("x", "logits")]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.value_info.extend(inside)
    graph.input.append(_float32("x", "N", CHANNELS, size, size))
    graph.output.append(_float32("logits", "N", classes))
    prune(model)


def _float32(name: str, *shape: int | str | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _core(model: ModelProto, classes: int, cam_layer: str | None) -> Core:
    shapes = _shapes(model, classes)
    features, width = _features(model, shapes)
    layer = layers.named(model, cam_layer, shapes) if cam_layer else layers.find(model, shapes)
    if cam_layer and layer is None:
        raise ForeignError(
            f"--cam-layer {cam_layer} names no tensor (N, C, h, w) of the graph, and no tokens "
            "(N, T, D) of a grid"
        )
    if features is not None:
        model.graph.node.append(helper.make_node("Identity", [features], ["features"]))
        model.graph.output.append(_float32("features", "N", width))
    if layer is not None:
        _rename(model, {layer: ACTIVATION})
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    onnx.checker.check_model(model, full_check=True)
    return Core(model, width)


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Renames tensors, in place; `names` maps old to new."""
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for tensor in (*model.graph.initializer, *model.graph.value_info):
        tensor.name = names.get(tensor.name, tensor.name)


def _shapes(model: ModelProto, classes: int) -> Shapes:
    try:
        inferred = with_shapes(model, strict=True).graph
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1][:160]
        raise ForeignError(
            f"the output does not have {classes} classes, "
            f"or the graph needs another image size: {reason}"
        ) from None
    infos = (*inferred.value_info, *inferred.input, *inferred.output)
    return {info.name: dims_of(info) for info in infos}


def _features(model: ModelProto, shapes: Shapes) -> tuple[str, int] | tuple[None, None]:
    """The input of the last linear layer and its width D, if it is (N, D)."""
    linear = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    if not linear or linear[-1].input[1] not in weights:
        return None, None
    node = linear[-1]
    if node.op_type == "MatMul" and len(shapes.get(node.input[0], [])) != LOGITS_RANK:
        return None, None
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return str(node.input[0]), int(weights[node.input[1]].dims[int(transposed)])
