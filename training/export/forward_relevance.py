"""Relevance forwards: what `training.autodiff.relevance` hands back, computed the other way round.

Relevance over x is the gradient of a network in which gates, roots of variances and the ratios
f(x)/x are constants, and each of two factors counts for a half. So is its slope along a direction,
which the imaginary parts of a complex step carry through the network (`training.export.exact`):

    gate                loses its imaginary part
    activation f        multiplies it by f(x)/x
    normalisation       centres and scales it, with the deviation of the real part
    product             halves it, where both factors have one

The rules are written here once more, without the reverse pass and its nodes. Which nodes are gates
is the table's own finding, in both directions.
"""

from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Shaped
from onnx import ModelProto, helper

from training.autodiff import Graph
from training.autodiff.relevance import gates, nodes_before
from training.export import operators
from training.export.core import core_of
from training.export.exact import Exact
from training.export.operators import FUNCTIONS, OPERATORS, Function, operator

STOP = "CandorConstant"  # the operator of a node behind a gate
SELU = 1.67326319217681884765625, 1.05070102214813232421875  # ONNX's defaults

Array = Shaped[np.ndarray, "..."]


def forward_relevance(predict: ModelProto) -> Exact:
    """The network of predict.onnx from x to logits; `predict` is changed in place."""
    graph = Graph(core_of(predict))
    for gate in gates(nodes_before(graph, "logits"), "x"):
        _stop(graph.model, gate.output[0])
    return Exact(graph.model, ["logits"], given=["x"], operators=RELEVANCE)


def _stop(model: ModelProto, name: str) -> None:
    """Takes the imaginary part from the tensor `name` of `model`, in place."""
    nodes = model.graph.node
    (place,) = (index for index, node in enumerate(nodes) if name in node.output)
    before = f"{name}/before"
    outputs = nodes[place].output
    outputs[list(outputs).index(name)] = before
    nodes.insert(place + 1, helper.make_node(STOP, [before], [name]))


def _ratio(function: Function) -> Function:
    """The activation `function`, whose imaginary part is that of x times f(x)/x; 0 where x is 0."""

    def activate(x: Array, **attributes: Any) -> Array:
        value = function(np.real(x), **attributes)
        if not np.iscomplexobj(x):
            return np.asarray(value)
        ratio = np.divide(value, x.real, out=np.zeros_like(value), where=x.real != 0)
        return np.asarray(value + 1j * ratio * x.imag)

    return activate


def _shared(function: Function) -> Function:
    """The product `function`, whose imaginary part is divided by the factors that have one."""

    def multiply(*factors: Array, **attributes: Any) -> Array:
        product = np.asarray(function(*factors, **attributes))
        count = sum(np.iscomplexobj(factor) for factor in factors)
        return product if count < 2 else np.asarray(product.real + 1j * product.imag / count)  # noqa: PLR2004

    return multiply


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(x))


def _selu(x: Array, alpha: float = SELU[0], gamma: float = SELU[1]) -> Array:
    return gamma * _elu(x, alpha)


def _einsum(*factors: Array, equation: str) -> Array:
    return np.asarray(np.einsum(equation, *factors))


ACTIVATIONS: dict[str, Function] = {
    "Elu": _elu,
    "Selu": _selu,
    "Tanh": np.tanh,
    **{
        name: FUNCTIONS[name]
        for name in ("Celu", "Gelu", "HardSwish", "LpNormalization", "Mish", "Softsign")
    },
}
CHANGED: dict[str, Function] = {
    STOP: np.real,
    "Einsum": _shared(_einsum),
    "GroupNormalization": partial(operators.group_norm, constant=True),
    "InstanceNormalization": partial(operators.instance_norm, constant=True),
    "LayerNormalization": partial(operators.layer_norm, constant=True),
    "MatMul": _shared(FUNCTIONS["MatMul"]),
    "Mul": _shared(FUNCTIONS["Mul"]),
    **{name: _ratio(function) for name, function in ACTIVATIONS.items()},
}
RELEVANCE = [
    *(each for each in OPERATORS if each.__name__ not in CHANGED),
    *(operator(name, function) for name, function in CHANGED.items()),
]
