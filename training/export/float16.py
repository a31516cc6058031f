"""Half-precision graphs for GPUs: made from the float32 graphs of a bundle, and proven against them.

    halved     the graph in float16 inside; inputs and outputs keep their types
    rounded    that graph in float32 again, every tensor rounded to float16 on its way: what a GPU computes, on any machine
    prove      the parity of the answers of `rounded` graphs with those of the float32 ones

ONNX Runtime has few float16 kernels for the CPU. It widens the rest to float32 and leaves out the roundings between them, so a half
graph that is run there hides what it loses, an overflow included. Hence `rounded`: sums inside one operator are in float32, as GPUs add,
and what one operator hands to the next is in float16.

No operator of the networks that were measured is better off in float32, and scaling the gradients up changes nothing; see
docs/training.md.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import torch
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

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
LARGEST = float(np.finfo(np.float16).max)
IN_FLOAT32 = (
    *DEFAULT_OP_BLOCK_LIST,
    "ScatterND",
)  # the converter's choice, and one whose sums not every provider has in half
AGAINST = "float32"
LIMITS = {  # relative difference, cosine: beyond all that was measured on sound networks (docs/training.md); masks flip in a gradient
    "logits": (0.01, 0.9999),
    "probabilities": (0.02, 0.9999),
    "features": (0.01, 0.9999),
    "saliency": (0.3, 0.99),
    "grad_cam": (0.05, 0.999),
}
REMEDY = "make the bundle without --half"

Values = Float[np.ndarray, "rows *others"]


def halved(model: ModelProto, in_float32: Sequence[str] = IN_FLOAT32) -> ModelProto:
    """`model`, float32, in float16 inside but for the operators `in_float32`; its inputs and outputs keep their types.

    Weights beyond ±65,504 are cut to it.
    """
    half: ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=list(in_float32)
    )
    _drop_repeated(half)
    ordered = ir.from_proto(half)
    ordered.graph.sort()  # the converter puts its casts last: https://github.com/microsoft/onnxconverter-common/issues/208
    half = ir.to_proto(ordered)
    del half.graph.value_info[:]
    onnx.checker.check_model(half, full_check=True)
    return half


def rounded(half: ModelProto) -> ModelProto:
    """`half` in float32, every tensor rounded to float16 on its way; for measuring, not for serving."""
    model = shape_inference.infer_shapes(half)
    graph = model.graph
    halves = {info.name for info in graph.value_info if info.type.tensor_type.elem_type == HALF}
    for tensor in graph.initializer:
        _widen(tensor)
    nodes = [each for node in graph.node for each in _rounding(node, halves)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return model


def prove(full: Engine, near: Engine, batch: Batch, calibration: Calibration) -> dict[str, Parity]:
    """The parity of `near`, which runs rounded graphs, with `full`, which runs float32: keys of the manifest, `half/…`.

    Maps are those of the class that `full` predicts; probabilities are those of `calibration`.

    Raises:
        ParityError: an answer overflows or is too far, or the engine would refuse the self-test image on a GPU.
    """
    target = full.predict(batch).logits.argmax(1)
    ours, theirs = (_answers(engine, batch, target, calibration) for engine in (near, full))
    for name, values in ours.items():
        _check_finite(name, values)
    measured = {name: _compare(values, theirs[name]) for name, values in ours.items()}
    for name, parity in measured.items():
        _check(name, parity)
    _check_self_test(full, near)
    return {f"half/{name}": parity for name, parity in measured.items()}


def _drop_repeated(model: ModelProto) -> None:
    """Keeps, in place, one of the equal casts that the converter makes where several operators in float32 read one tensor."""
    nodes = {tuple(node.output): node for node in model.graph.node}
    del model.graph.node[:]
    model.graph.node.extend(nodes.values())


def _rounding(node: NodeProto, halves: set[str]) -> list[NodeProto]:
    """`node` in float32, and behind it the casts that round its outputs."""
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
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )


def _answers(
    engine: Engine, batch: Batch, target: Targets, calibration: Calibration
) -> Mapping[str, Values]:
    predicted, x = engine.predict(batch), engine.normalise(batch)
    with np.errstate(invalid="ignore"):  # of logits that overflowed, which is told of them
        answers = {
            "logits": predicted.logits,
            "probabilities": calibration.probabilities(predicted.logits),
        }
    if predicted.features is not None:
        answers["features"] = predicted.features
    if engine.has(contract.GRADIENT):
        answers["saliency"] = engine.gradient(x, target).gradient
    if engine.has(contract.CAM):
        answers["grad_cam"] = engine.cam(x, target).cam
    return answers


def _compare(ours: Values, theirs: Values) -> Parity:
    a, b = (values.reshape(len(values), -1, 1, 1).astype(np.float32) for values in (ours, theirs))
    return compare(a, torch.from_numpy(b), AGAINST)


def _check_finite(name: str, values: Values) -> None:
    broken = int((~np.isfinite(values.reshape(len(values), -1)).all(1)).sum())
    if broken:
        raise ParityError(
            f"{name} in half precision overflows for {broken} of {len(values)} images (limit 0): "
            f"something inside the network exceeds {LARGEST:,.0f}, the largest number in half precision; {REMEDY}"
        )


def _check(name: str, parity: Parity) -> None:
    most, least = LIMITS[name]
    if parity.relative_difference > most or parity.cosine < least:
        raise ParityError(
            f"{name} in half precision differs from {parity.against}: median relative difference {parity.relative_difference:.2e} "
            f"(limit {most}), cosine {parity.cosine:.6f} (limit {least}) over {parity.pictures} images; {REMEDY}"
        )


def _check_self_test(full: Engine, near: Engine) -> None:
    image = self_test_image(full.manifest.input.size)
    expected, found = full.predict(image).logits[0], near.predict(image).logits[0]
    difference = abs(float(found.max()) - float(expected.max()))
    if (
        found.argmax() != expected.argmax() or not difference <= SELF_TEST_TOLERANCE
    ):  # it may be no number
        raise ParityError(
            f"the self-test image in half precision gives class {found.argmax()} with a logit that differs by {difference:.3f}; "
            f"class {expected.argmax()} within {SELF_TEST_TOLERANCE} is wanted, or no GPU would serve the bundle: {REMEDY}"
        )
