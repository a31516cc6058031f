"""Operators that ONNX Runtime's optimiser writes (domain com.microsoft), as plain operators.

Most are functions of plain operators; the others are one plain operator and an activation. Inputs
and defaults are those of
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md. Fused attention, the
layouts of one processor (nchwc) and quantised operators stay: the differentiation names them.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    ModelProto,
    NodeProto,
    helper,
    inliner,
    numpy_helper,
)
from onnxscript import FLOAT, script
from onnxscript.onnx_opset import opset18
from onnxscript.values import Opset

DOMAIN, OPSET = "com.microsoft", 18  # of the plain operators in the functions
ZERO = "microsoft/zero"
ADDED = ("bias", "skip")  # inputs of the functions that may be left out, and then are zero
# ONNX Runtime writes these as ONNX's own: the second is none, the first only since this opset.
LAYER_NORMALIZATION, IN_ONNX = 17, ("LayerNormalization", "SimplifiedLayerNormalization")

if TYPE_CHECKING:  # onnxscript wants its types, which have no operators
    Tensor = Any
else:
    Tensor = FLOAT[...]

_domain = Opset(DOMAIN, 1)
op: Any = opset18  # its types know no constants, which the translation takes


@script(_domain, default_opset=op)
def _quick_gelu(x: Tensor, alpha: float = 1.702) -> Tensor:
    return x * op.Sigmoid(alpha * x)


@script(_domain, default_opset=op)
def _gelu(x: Tensor, bias: Tensor) -> Tensor:
    s = x + bias
    return 0.5 * s * (1.0 + op.Erf(s / 1.4142135623730951))


@script(_domain, default_opset=op)
def _fast_gelu(x: Tensor, bias: Tensor) -> Tensor:
    s = x + bias
    return 0.5 * s * (1.0 + op.Tanh(0.7978845608028654 * s * (1.0 + 0.044715 * s * s)))


@script(_domain, default_opset=op)
def _layer(
    x: Tensor, scale: Tensor, shift: Tensor, axis: int = -1, epsilon: float = 1e-5
) -> Tensor:
    return op.LayerNormalization(x, scale, shift, axis=axis, epsilon=epsilon)


@script(_domain, default_opset=op)
def _skip_layer(
    x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor, bias: Tensor, epsilon: float = 1e-12
) -> tuple[Tensor, Tensor]:
    s = x + skip + bias
    return op.LayerNormalization(s, scale, shift, epsilon=epsilon), s


@script(_domain, default_opset=op)
def _rms(x: Tensor, scale: Tensor, epsilon: float = 1e-5) -> Tensor:
    return x / op.Sqrt(op.ReduceMean(x * x, [-1]) + epsilon) * scale


@script(_domain, default_opset=op)
def _skip_rms(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor, epsilon: float = 1e-12
) -> tuple[Tensor, Tensor]:
    s = x + skip + bias
    return s / op.Sqrt(op.ReduceMean(s * s, [-1]) + epsilon) * scale, s


# Operator → its function, and the outputs of the operator that the function has.
FUNCTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "BiasGelu": (_gelu, (0,)),
    "FastGelu": (_fast_gelu, (0,)),
    "Gelu": (_gelu, (0,)),
    "LayerNormalization": (_layer, (0,)),
    "QuickGelu": (_quick_gelu, (0,)),
    "SimplifiedLayerNormalization": (_rms, (0,)),
    "SkipLayerNormalization": (_skip_layer, (0, 3)),
    "SkipSimplifiedLayerNormalization": (_skip_rms, (0, 3)),
}
FUSED = {
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMul": "MatMul",
    "FusedMatMulActivation": "MatMul",
    "TransposeMatMul": "MatMul",
}
# The parameters of an activation, by name: a list in FusedConv, attributes in the others.
PARAMETERS = {"HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",), "Elu": ("alpha",)}
FACTORS_OF_CONV = 3  # inputs of Conv and Gemm; FusedConv adds a fourth
OF_ACTIVATION = ("activation_alpha", "activation_beta", "activation_gamma", "activation_axis")


def adopt(model: ModelProto, opset: int) -> bool:
    """Gives `DOMAIN`, in place, to its operators in ONNX's domain; true if there are any of it."""
    for node in model.graph.node:
        is_ours = node.op_type == IN_ONNX[0] and opset >= LAYER_NORMALIZATION
        if node.domain == "" and node.op_type in IN_ONNX and not is_ours:
            node.domain = DOMAIN
    is_used = any(node.domain == DOMAIN for node in model.graph.node)
    if is_used and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return is_used


def expanded(model: ModelProto) -> ModelProto:
    """The model, of opset 18 or newer, with plain operators in the place of those listed above."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), ZERO))
    del graph.node[:]
    for node in model.graph.node:
        graph.node.extend(_unfused(node) if _is_fused(node) else [_call(node)])
    for name in sorted({node.op_type for node in model.graph.node if _is_function(node)}):
        result.functions.append(_definition(name))
    inlined = inliner.inline_local_functions(result, convert_version=True)
    for node in inlined.graph.node:
        while node.input and not node.input[-1]:
            # ONNX Runtime 1.31 crashes when it fuses a LayerNormalization with an empty bias.
            del node.input[-1]
    return inlined


def with_defaults(node: NodeProto, defaults: Iterable[AttributeProto]) -> NodeProto:
    """`node` with the attributes that it leaves to their defaults, which the inliner leaves out."""
    given = {entry.name for entry in node.attribute}
    result = NodeProto()
    result.CopyFrom(node)
    result.attribute.extend(entry for entry in defaults if entry.name not in given)
    return result


def _definition(name: str) -> FunctionProto:
    function: FunctionProto = FUNCTIONS[name][0].to_function_proto()
    function.name = name
    return function


def _is_function(node: NodeProto) -> bool:
    """True if a function of ours has all outputs of `node` that are used."""
    if node.domain != DOMAIN or node.op_type not in FUNCTIONS:
        return False
    kept = FUNCTIONS[node.op_type][1]
    return not any(name for index, name in enumerate(node.output) if index not in kept)


def _call(node: NodeProto) -> NodeProto:
    """`node` with the inputs and outputs of its function, if it has one."""
    if not _is_function(node):
        return node
    function, kept = _definition(node.op_type), FUNCTIONS[node.op_type][1]
    names = list(function.input)
    given = [*node.input, *[""] * (len(names) - len(node.input))]
    call = with_defaults(node, function.attribute_proto)
    del call.input[:], call.output[:]
    call.input.extend(
        ZERO if not value and name in ADDED else value
        for name, value in zip(names, given, strict=True)
    )
    call.output.extend(node.output[index] for index in kept if index < len(node.output))
    return call


def _is_fused(node: NodeProto) -> bool:
    attributes = _attributes(node)
    by_batch = attributes.get("transBatchA", 0) or attributes.get("transBatchB", 0)
    return node.domain == DOMAIN and node.op_type in FUSED and not by_batch


def _unfused(node: NodeProto) -> Iterator[NodeProto]:
    """A product, what is added to it, and its activation."""
    attributes, output = _attributes(node), node.output[0]
    activation = attributes.pop("activation", b"").decode()
    values = [attributes.pop(name) for name in OF_ACTIVATION if name in attributes]
    values = list(attributes.pop("activation_params", values))
    steps = [f"{output}/{step}" for step in ("product", "sum")]
    product = steps[0] if activation or len(node.input) > FACTORS_OF_CONV else output
    if FUSED[node.op_type] == "MatMul":
        yield from _product(node, attributes, product)
    else:
        inputs = node.input[:FACTORS_OF_CONV]
        yield helper.make_node(FUSED[node.op_type], inputs, [product], **attributes)
    if len(node.input) > FACTORS_OF_CONV:
        total = steps[1] if activation else output
        yield helper.make_node("Add", [product, node.input[FACTORS_OF_CONV]], [total])
        product = total
    if activation:
        yield from _activated(activation, values, product, output)


def _product(node: NodeProto, attributes: dict[str, Any], output: str) -> Iterator[NodeProto]:
    """α·A·B, where A and B may be transposed."""
    factors = list(node.input)
    for index, flag in enumerate(("transA", "transB")):
        if attributes.get(flag, 0):
            turned = f"{output}/{flag}"
            # The only operator that turns the last two axes of any number of axes.
            yield helper.make_node("Einsum", [factors[index]], [turned], equation="...ij->...ji")
            factors[index] = turned
    alpha = attributes.get("alpha", 1.0)
    plain = output if alpha == 1 else f"{output}/unscaled"
    yield helper.make_node("MatMul", factors, [plain])
    if alpha != 1:
        yield _constant(f"{output}/alpha", alpha)
        yield helper.make_node("Mul", [plain, f"{output}/alpha"], [output])


def _activated(
    activation: str, values: Sequence[float], x: str, output: str
) -> Iterator[NodeProto]:
    bounds = [f"{output}/bound{index}" for index in range(len(values))]
    if activation == "Clip":  # bounds are inputs since opset 11
        yield from (_constant(bound, value) for bound, value in zip(bounds, values, strict=True))
        yield helper.make_node("Clip", [x, *bounds], [output])
        return
    attributes: dict[str, Any] = dict(zip(PARAMETERS.get(activation, ()), values, strict=False))
    yield helper.make_node(activation, [x], [output], **attributes)


def _constant(name: str, value: float) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_float=float(value))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
