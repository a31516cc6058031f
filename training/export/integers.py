"""Operators that compute in 8-bit integers (QOperator format), as plain ones between roundings.

    QLinearConv(x, w)    becomes    QuantizeLinear(Conv(DequantizeLinear(x), DequantizeLinear(w)))

and the same for matrix products, and for the operators of ONNX Runtime's quantiser in its domain
com.microsoft. It is the same function in the QDQ format, which is differentiated straight through.
ConvInteger and MatMulInteger stay: they stand behind DynamicQuantizeLinear.
Inputs: https://onnx.ai/onnx/operators and
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from training.autodiff.model import constants_of

# The plain operator of each, with two quantised inputs or one.
BINARY = {
    "QGemm": "Gemm",
    "QLinearAdd": "Add",
    "QLinearConv": "Conv",
    "QLinearMatMul": "MatMul",
    "QLinearMul": "Mul",
}
UNARY = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}
CONCAT = "QLinearConcat"
FOREIGN = ("channels_last", "opset")  # attributes that the plain operators do not have
TRIPLE = 3  # a tensor, its scale, its zero point

Triple = Sequence[str]


def expanded(model: ModelProto) -> ModelProto:
    """The model, of opset 13 or newer, in the QDQ format."""
    if not any(_is_taken(node) for node in model.graph.node):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    constants = constants_of(result)
    del result.graph.node[:]
    for node in model.graph.node:
        result.graph.node.extend(_plain(node, constants) if _is_taken(node) else [node])
    return result


def _is_taken(node: NodeProto) -> bool:
    if node.op_type not in {*BINARY, *UNARY, CONCAT}:
        return False
    values = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    # The bias of a QGemm is scaled by alpha, too.
    is_scaled = node.op_type == "QGemm" and values.get("alpha", 1.0) != 1
    return not (is_scaled or values.get("channels_last", 0))


def _plain(node: NodeProto, constants: dict[str, TensorProto]) -> Iterator[NodeProto]:
    inputs, kind, more = list(node.input), node.op_type, list[str]()
    if kind == CONCAT:
        target, operator = inputs[:2], "Concat"
        sources = [inputs[at : at + TRIPLE] for at in range(2, len(inputs), TRIPLE)]
    elif kind in UNARY:
        operator, sources, target = UNARY[kind], [inputs[:TRIPLE]], inputs[TRIPLE:]
    else:
        operator, sources = BINARY[kind], [inputs[:TRIPLE], inputs[TRIPLE : 2 * TRIPLE]]
        bias_at, target_at = (6, 7) if kind == "QGemm" else (8, 6)
        target = [name for name in inputs[target_at : target_at + 2] if name]
        more = [name for name in inputs[bias_at : bias_at + 1] if name]
    output = node.output[0]
    floats = [f"{output}/input{index}" for index in range(len(sources))]
    for index, (source, name) in enumerate(zip(sources, floats, strict=True)):
        yield _float(source, name, _axis(node, index))
    if more and kind in ("QLinearConv", "QGemm"):
        yield _bias(more[0], sources, constants, f"{output}/bias")
        floats.append(f"{output}/bias")
    exact = f"{output}/exact" if target else output
    plain = helper.make_node(operator, floats, [exact], name=node.name)
    plain.attribute.extend(entry for entry in node.attribute if entry.name not in FOREIGN)
    yield plain
    if target:
        yield helper.make_node("QuantizeLinear", [exact, *target], [output])


def _float(source: Triple, name: str, axis: int) -> NodeProto:
    return helper.make_node(
        "DequantizeLinear", [each for each in source if each], [name], axis=axis
    )


def _axis(node: NodeProto, index: int) -> int:
    """The axis of weights that have a scale for each output channel."""
    is_turned = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if node.op_type == "QLinearConv" or is_turned or index == 0 else 1


def _bias(
    name: str, sources: Sequence[Triple], constants: dict[str, TensorProto], output: str
) -> NodeProto:
    """The constant of a bias, whose step is the product of the steps of the factors."""
    first, second = (numpy_helper.to_array(constants[source[1]]) for source in sources)
    steps = numpy_helper.to_array(constants[name]).astype(np.float64)
    values = (steps * (first.astype(np.float64) * second)).astype(np.float32)
    return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(values))
