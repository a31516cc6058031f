"""The core of any ONNX image classifier, from whichever exporter.

Differences between exporters are put right. Nothing else is touched; weights are kept bit for bit:

    its kind of image                   that of a core (training.export.inputs)
    softmax, sigmoids, one logit        the logits behind them (training.export.heads)
    operators, opset, local functions   written plainly (training.export.opsets)
    shape arithmetic, a fixed batch     settled by running the graph (training.export.shapes)
    input and output                    renamed to x and logits

Features are the input of the last linear layer. `training.export.layers` finds the layer of the
class activation map.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from service.image.resize import Size, sides
from training.autodiff import DifferentiationError, prune
from training.export import layers
from training.export.core import ACTIVATION, EARLIER, IR_VERSION, Core, name_layers, rename
from training.export.ends import (
    CHANNELS,
    IMAGE_RANK,
    LOGITS_RANK,
    Dims,
    ForeignError,
    Names,
)
from training.export.faults import STANDARD, reason, worded
from training.export.heads import drop_sequences, find_head
from training.export.inputs import plain, refuse_others
from training.export.loading import load
from training.export.opsets import plain as with_plain_operators
from training.export.original import Feed, Original
from training.export.shapes import settled
from training.export.source import AS_GIVEN, Asked, Source

__all__ = ["CHANNELS", "ForeignCore", "ForeignError", "Names", "read_core", "weights_of"]

PUBLISHED = re.compile("(?P<name>.+) sha256 (?P<sha256>[0-9a-f]{64})")  # training.export.weights

RESERVED = ("x", "logits", "features", ACTIVATION, *EARLIER.values())  # tensors of a core
ENDS = ("x", "logits")
SHOWN = 3  # tensors in a message

Shapes = dict[str, Dims]


@dataclass(frozen=True)
class ForeignCore(Core):
    """The core of a file: `source` is its input, `original` the file itself if it can be run."""

    source: Source | None = None
    original: Original | None = None


def read_core(
    path: Path, size: Size | None, classes: int | None, names: Names, asked: Asked = AS_GIVEN
) -> ForeignCore:
    """The core of the classifier in `path` for images of `size`.

    Without `size` and `classes` they are those of the file. Unless `asked` leaves it to the file,
    the caller normalises.

    Raises:
        ForeignError: the file is no such classifier, or its tensors cannot be found.
    """
    model = load(path)
    with worded(f"the graph of {path} cannot be made a bundle of", STANDARD, DifferentiationError):
        return _read(model, path, size, classes, names, asked)


def _read(
    model: ModelProto,
    path: Path,
    size: Size | None,
    classes: int | None,
    names: Names,
    asked: Asked,
) -> ForeignCore:
    drop_sequences(model)
    model = with_plain_operators(model)
    source = plain(model, size, names.input, asked)
    image, *others = (info.name for info in model.graph.input)
    refuse_others(model, others)
    del model.graph.input[1:]
    feed = Feed(image, source.batch)
    head, output = find_head(model, feed, source.size, classes, names.output)
    model = settled(model, image, source.batch, output)
    renamed = _rename_ends(model, image, output)
    _set_ends(model, source.size, head.classes)
    core = _core(model, head.classes, names.cam_layer, renamed)
    original = Original.opened(path, source, head)
    return ForeignCore(core.model, core.width, head.kind, source, original)


def weights_of(path: Path) -> dict[str, dict[str, str]]:
    """Name and sha256 of the weights that the file names in its metadata, if it does."""
    properties = onnx.load(path).metadata_props
    text = next((entry.value for entry in properties if entry.key == "weights"), "")
    match = PUBLISHED.fullmatch(text)
    return {"weights": match.groupdict()} if match else {}


def _rename_ends(model: ModelProto, image: str, output: str) -> dict[str, str]:
    """Renames input and output, in place, and tensors that have a reserved name; old → new."""
    names = {name: f"theirs/{name}" for name in RESERVED}
    names |= {image: "x", output: "logits"}
    rename(model, names)
    return names


def _set_ends(model: ModelProto, size: Size, classes: int) -> None:
    """Makes `model`, in place, a graph from x to logits, and drops all that logits do not need."""
    graph = model.graph
    # Shapes of tensors that are ends now: ends have theirs below.
    inside = [info for info in graph.value_info if info.name not in ENDS]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.value_info.extend(inside)
    graph.input.append(_float32("x", "N", CHANNELS, *sides(size)))
    graph.output.append(_float32("logits", "N", classes))
    prune(model)


def _float32(name: str, *shape: int | str | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _core(model: ModelProto, classes: int, asked: str | None, renamed: Mapping[str, str]) -> Core:
    """The core, with the layer `asked` for; `renamed` maps names of the file to those of `model`.

    Raises:
        ForeignError: there is no such layer.
    """
    shapes = _shapes(model, classes)
    features, width = _features(model, shapes)
    if asked:
        chosen = layers.named(model, renamed.get(asked, asked), shapes)
        if chosen is None:
            raise ForeignError(f"--cam-layer {asked} {_unfit(renamed.get(asked, asked), shapes)}")
        found = [chosen]
    else:
        found = layers.find(model, shapes)
    if features is not None:
        model.graph.node.append(helper.make_node("Identity", [features], ["features"]))
        model.graph.output.append(_float32("features", "N", width))
    name_layers(model, found)
    model.ir_version, model.producer_name, model.producer_version = IR_VERSION, "candor", ""
    onnx.checker.check_model(model, full_check=True)
    return Core(model, width)


def _unfit(layer: str, shapes: Shapes) -> str:
    """The reason why a tensor is no layer of a class activation map, and which might be one."""
    images = [n for n, dims in shapes.items() if len(dims) == IMAGE_RANK and n not in ENDS]
    there = f"; the last such are {', '.join(images[-SHOWN:])}" if images else ""
    if layer == "x":
        return f"is the image itself{there}"
    if layer in shapes:
        sizes = ", ".join("N" if size is None else str(size) for size in shapes[layer])
        return f"is ({sizes}), neither (N, C, h, w) nor tokens (N, T, D) of a grid{there}"
    return f"names no tensor (N, C, h, w) of the graph, and no tokens (N, T, D) of a grid{there}"


def _shapes(model: ModelProto, classes: int) -> Shapes:
    try:
        return layers.shapes_of(model, strict=True)
    except onnx.shape_inference.InferenceError as error:
        raise ForeignError(
            f"the output does not have {classes} classes, "
            f"or the graph needs another image size: {reason(error)}"
        ) from None


def _features(model: ModelProto, shapes: Shapes) -> tuple[str, int] | tuple[None, None]:
    """The input of the last linear layer and its width D, if it is (N, D), a row an image."""
    linear = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    if not linear or linear[-1].input[1] not in weights:
        return None, None
    node = linear[-1]
    if len(shapes.get(node.input[0], [])) != LOGITS_RANK:
        return None, None
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return str(node.input[0]), int(weights[node.input[1]].dims[int(transposed)])
