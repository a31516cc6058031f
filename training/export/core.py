"""The core of a classifier as an ONNX graph, and the graphs of a bundle that are made of it.

Every graph names its tensors alike, so that `predict.onnx` alone holds all that the others need:

    x            float32 (N, 3, H, W), normalised
    logits       float32 (N, K)
    features     float32 (N, D), optional: the penultimate activations
    activation   float32 (N, C, h, w), optional: the layer that a class activation map weighs
    activation/middle, activation/early    the same, optional: earlier layers of finer cells

    predict.onnx    the core behind its normalisation, from uint8 images (N, H, W, 3)
    gradient.onnx   the core and its reverse pass (training.autodiff), earlier layers included
    cam.onnx        the core and its reverse pass down to `activation`
    lrp.onnx        the core and its pass of relevance, of a network with attention or a norm of
                    features: of others, relevance is nearly x · gradient

The others are derived from `predict.onnx`, deterministically and with its weights bit for bit. That
needs onnx and numpy, and neither torch nor ONNX Runtime.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from service.bundle import folder as contract
from service.bundle.calibration import Head
from service.bundle.manifest import LAST, LAYERS, Layer
from service.image.resize import Input
from training.autodiff import cam_graph, gradient_graph, has_relevance, prune, relevance_graph

IR_VERSION = 10  # the newest that every onnxruntime since 1.18 reads
ACTIVATION = "activation"
EARLIER = {name: f"{ACTIVATION}/{name}" for name in LAYERS if name != LAST}


@dataclass(frozen=True)
class Core:
    """A classifier as an ONNX graph from `x` to `logits`.

    `width` is D of its features, or None; `head` turns the logits into probabilities.
    """

    model: ModelProto
    width: int | None
    head: Head = "softmax"

    @property
    def classes(self) -> int:
        """K."""
        (logits,) = (output for output in self.model.graph.output if output.name == "logits")
        return int(logits.type.tensor_type.shape.dim[1].dim_value)


def graphs(core: Core, spec: Input, *, gradients: bool = True) -> dict[str, bytes]:
    """The ONNX files of a bundle; without `gradients` the one for predictions alone.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    predict = content(predict_graph(core.model, spec))
    files = {contract.PREDICT: predict}
    if gradients:
        names = [contract.GRADIENT]
        if names_tensor(core.model, ACTIVATION):
            names.append(contract.CAM)
        if has_relevance(core.model):
            names.append(contract.LRP)
        files |= derived(predict, names)
    return files


def predict_graph(core: ModelProto, spec: Input) -> ModelProto:
    """The graph image uint8 (N, H, W, 3) → logits and features.

    The core gets (pixel / 255 − mean) / std, as `Engine.normalise` computes it.
    """
    model = ModelProto()
    model.CopyFrom(core)
    graph = model.graph
    # Two operators instead of three: the division by 255 goes into the mean and the scale.
    mean = 255 * np.asarray(spec.mean, np.float32)
    scale = 1 / (255 * np.asarray(spec.std, np.float32))
    for name, value in (("mean", mean), ("scale", scale)):
        tensor = numpy_helper.from_array(value.reshape(1, 3, 1, 1), f"input/{name}")
        graph.initializer.append(tensor)
    nodes = [
        helper.make_node("Transpose", ["image"], ["input/planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["input/planes"], ["input/float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["input/float", "input/mean"], ["input/centred"]),
        helper.make_node("Mul", ["input/centred", "input/scale"], ["x"]),
        *graph.node,
    ]
    outputs = [output for output in graph.output if output.name in ("logits", "features")]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *spec.shape, 3])
    _set_ends(model, nodes, [image], outputs)
    onnx.checker.check_model(model, full_check=True)
    return model


def derived(predict: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """Those of `contract.DERIVED` that `names` lists, made from the file predict.onnx.

    Raises:
        DifferentiationError: an operator has no rule.
    """
    core = core_of(onnx.load_model_from_string(predict))
    makers = {
        contract.GRADIENT: lambda: gradient_graph(core, layers=earlier_of(core)),
        contract.CAM: lambda: cam_graph(core),
        contract.LRP: lambda: relevance_graph(core),
    }
    return {name: content(makers[name]()) for name in names}


def earlier_of(core: ModelProto) -> dict[str, str]:
    """The tensors of the earlier layers that `core` names, by name of the layer."""
    return {name: tensor for name, tensor in EARLIER.items() if names_tensor(core, tensor)}


def layers_of(files: Mapping[str, bytes]) -> tuple[Layer, ...]:
    """The layers for class activation maps in the files of a bundle; none if there is but one."""
    outputs = [
        output
        for file in (contract.CAM, contract.GRADIENT)
        if contract.CAM in files
        for output in onnx.load_model_from_string(files[file]).graph.output
    ]
    sides = {
        output.name: [dim.dim_value for dim in output.type.tensor_type.shape.dim[2:]]
        for output in outputs
    }
    tensors = {LAST: ACTIVATION, **EARLIER}
    found = [Layer(name, *sides[tensor]) for name, tensor in tensors.items() if tensor in sides]
    return tuple(found) if len(found) > 1 else ()


def rename(model: ModelProto, names: Mapping[str, str]) -> None:
    """Renames tensors, in place; `names` maps old to new."""
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for tensor in (*model.graph.initializer, *model.graph.value_info):
        tensor.name = names.get(tensor.name, tensor.name)


def name_layers(model: ModelProto, tensors: Sequence[str]) -> None:
    """Gives the layers `tensors`, last first, their names in a core, in place."""
    rename(model, dict(zip(tensors, (ACTIVATION, *EARLIER.values()), strict=False)))


def content(model: ModelProto) -> bytes:
    """The file that holds `model`: the same bytes for the same model."""
    return bytes(model.SerializeToString(deterministic=True))


def names_tensor(model: ModelProto, name: str) -> bool:
    """True if a node of `model` computes the tensor `name`."""
    return any(name in node.output for node in model.graph.node)


def core_of(predict: ModelProto) -> ModelProto:
    """The graph x → logits inside predict.onnx: the inverse of `predict_graph`."""
    _, *sides, _ = (dim.dim_value for dim in predict.graph.input[0].type.tensor_type.shape.dim)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, *sides])
    logits = [output for output in predict.graph.output if output.name == "logits"]
    # `x` is the last tensor of the normalisation: without its node, nothing before it is needed.
    nodes = [node for node in predict.graph.node if "x" not in node.output]
    _set_ends(predict, nodes, [x], logits)
    return predict


def _set_ends(
    model: ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> None:
    """Gives `model` new nodes, inputs and outputs, in place, and drops what they do not need."""
    graph = model.graph
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.output.extend(outputs)
    prune(model)
