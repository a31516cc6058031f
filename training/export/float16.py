"""Graphs in half precision for GPUs: made from the float32 graphs of a bundle, and proven.

    halved     the graph in float16 inside; inputs and outputs keep their types
    rounded    that graph in float32 again, with every tensor rounded to float16
    prove      the parity of the answers of `rounded` graphs with those of the float32 graphs

A `rounded` graph computes on any machine what a GPU computes: sums inside an operator are in
float32, and each operator hands the next a float16. A `halved` graph on a CPU does not. There ONNX
Runtime has few float16 kernels, widens the rest to float32, and leaves the roundings between them
out; so it hides the loss, and even an overflow.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from jaxtyping import Float
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxscript import ir

from service.bundle import folder as contract
from service.bundle.calibration import Calibration
from service.bundle.manifest import Parity
from service.runtime.engine import Engine
from service.runtime.graphs import Batch, Targets
from service.runtime.sessions import SELF_TEST_TOLERANCE, self_test_image
from training.export.parity import ParityError, compare
from training.export.proof import parity_name

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
LARGEST = float(np.finfo(np.float16).max)
# The converter's own choice, and ScatterND, which not every provider can add in half. No operator
# of the networks that were measured is better off in float32 (docs/training.md).
IN_FLOAT32 = (*DEFAULT_OP_BLOCK_LIST, "ScatterND")
AGAINST = "float32"
# The largest relative difference and the least cosine: beyond all that was measured on sound
# networks (docs/training.md). Saliency has most room, because rounding flips masks in a gradient.
LIMITS = {
    "logits": (0.01, 0.9999),
    "probabilities": (0.02, 0.9999),
    "features": (0.01, 0.9999),
    "saliency": (0.3, 0.99),
    "grad_cam": (0.05, 0.999),
}
REMEDY = "make the bundle without --half"

Values = Float[np.ndarray, "rows *others"]


def halved(model: ModelProto, in_float32: Sequence[str] = IN_FLOAT32) -> ModelProto:
    """`model`, float32, in float16 inside, except the operators `in_float32`.

    Inputs and outputs keep their types. Weights beyond ±65,504 are cut to that.
    """
    half: ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=list(in_float32)
    )
    _drop_repeated(half)
    ordered = ir.from_proto(half)
    # The converter appends its casts at the end, behind the nodes that read them:
    # https://github.com/microsoft/onnxconverter-common/issues/208
    ordered.graph.sort()
    half = ir.to_proto(ordered)
    del half.graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half


def rounded(half: ModelProto) -> ModelProto:
    """`half` in float32 with every tensor rounded to float16; for measuring, not for serving."""
    model = shape_inference.infer_shapes(half)
    graph = model.graph
    halves = {info.name for info in graph.value_info if info.type.tensor_type.elem_type == HALF}
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = [each for node in graph.node for each in _with_rounding(node, halves)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def prove(
    full_engine: Engine, half_engine: Engine, batch: Batch, calibration: Calibration
) -> dict[str, Parity]:
    """The parity of `half_engine`, which runs rounded graphs, with `full_engine` in float32.

    The keys are those of the manifest, `half/…`. Maps are of the class that `full_engine`
    predicts; probabilities are those of `calibration`.

    Raises:
        ParityError: an answer overflows or differs too much, or the self-test would fail on a GPU.
    """
    target = full_engine.predict(batch).logits.argmax(1)
    ours, theirs = (
        answers_of(engine, batch, target, calibration) for engine in (half_engine, full_engine)
    )
    for name, values in ours.items():
        _check_finite(name, values)
    measured = {name: compared(values, theirs[name]) for name, values in ours.items()}
    for name, parity in measured.items():
        _check(name, parity)
    _check_self_test(full_engine, half_engine)
    return {f"half/{name}": parity for name, parity in measured.items()}


def _drop_repeated(model: ModelProto) -> None:
    """Keeps one, in place, of several equal casts with the same output."""
    # The converter makes a cast for each operator in float32 that reads a tensor.
    nodes = {tuple(node.output): node for node in model.graph.node}
    del model.graph.node[:]
    model.graph.node.extend(nodes.values())


def _with_rounding(node: NodeProto, halves: set[str]) -> list[NodeProto]:
    """`node` in float32, and the casts that round its outputs."""
    casts = []
    for attribute in node.attribute:
        _widen(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
            attribute.i = FLOAT
    for index, name in enumerate(node.output):
        if name in halves:
            node.output[index] = f"{name}/exact"
            casts.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=HALF))
            casts.append(helper.make_node("Cast", [f"{name}/half"], [name], to=FLOAT))
    return [node, *casts]


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == HALF:
        wide = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def answers_of(
    engine: Engine, batch: Batch, target: Targets, calibration: Calibration
) -> Mapping[str, Values]:
    """The answers of `engine` that are compared, by their names in a manifest's parity."""
    predicted, x = engine.predict(batch), engine.normalise(batch)
    # Logits may have overflowed to infinity; `_check_finite` reports that in a sentence.
    with np.errstate(invalid="ignore"):
        probabilities = calibration.probabilities(predicted.logits)
    answers = {"logits": predicted.logits, "probabilities": probabilities}
    if predicted.features is not None:
        answers["features"] = predicted.features
    if engine.has(contract.GRADIENT):
        answers["saliency"] = engine.gradient(x, target).gradient
    if engine.has(contract.CAM):
        for layer in engine.manifest.layer_names:
            answers[parity_name(layer)] = engine.cam(x, target, layer).cam
    return answers


def compared(ours: Values, theirs: Values) -> Parity:
    """The parity of one of these answers with that in float32."""
    a, b = (values.reshape(len(values), -1, 1, 1).astype(np.float32) for values in (ours, theirs))
    return compare(a, b, AGAINST)


def _check_finite(name: str, values: Values) -> None:
    broken = int((~np.isfinite(values.reshape(len(values), -1)).all(1)).sum())
    if broken:
        raise ParityError(
            f"{name} in half precision overflows for {broken} of {len(values)} images (limit 0): "
            f"a tensor inside the network exceeds {LARGEST:,.0f}, the largest number in half "
            f"precision; {REMEDY}"
        )


def _check(name: str, parity: Parity) -> None:
    kind = "grad_cam" if name.startswith("grad_cam") else name
    largest_difference, least_cosine = LIMITS[kind]
    if parity.relative_difference > largest_difference or parity.cosine < least_cosine:
        raise ParityError(
            f"{name} in half precision differs from {parity.against}: "
            f"median relative difference {parity.relative_difference:.2e} "
            f"(limit {largest_difference}), cosine {parity.cosine:.6f} (limit {least_cosine}) "
            f"over {parity.pictures} images; {REMEDY}"
        )


def _check_self_test(full_engine: Engine, half_engine: Engine) -> None:
    image = self_test_image(full_engine.manifest.input.size)
    expected, result = (engine.predict(image).logits[0] for engine in (full_engine, half_engine))
    difference = abs(float(result.max()) - float(expected.max()))
    # Not ">", which is false for NaN.
    is_near = difference <= SELF_TEST_TOLERANCE
    if result.argmax() != expected.argmax() or not is_near:
        raise ParityError(
            f"the self-test image in half precision gives class {result.argmax()} with a logit "
            f"that differs by {difference:.3f}; class {expected.argmax()} within "
            f"{SELF_TEST_TOLERANCE} is required, or no GPU would serve the bundle: {REMEDY}"
        )
