"""Rules of relevance: a second table over the reverse pass, that of AttnLRP.

Layer-wise relevance propagation hands the logit back from layer to layer, and each input of a
layer gets the share that it had in the output. Where that share is x · gradient, as in linear
layers, rectifiers, pools and Softmax, the rule is the gradient's. These rules differ:

    activation f        f(x)/x in the place of the slope
    normalisation       its standard deviation is a constant
    gate                a constant: GELU and SiLU, spelled out, are x times a gate
    product             a half for each of two factors that depend on the image

The reverse pass then gives relevance/x. That of a whole network is x times the result.

Achtibat et al., "AttnLRP", ICML 2024, arXiv 2402.05602, sections 3.3.1 to 3.3.4; that a gate is a
constant is of Arras et al., arXiv 1909.12114, section 3.3.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from onnx import NodeProto

from training.autodiff import rules  # noqa: F401 - registers the rules of the gradient
from training.autodiff.graph import Graph, active_tensors
from training.autodiff.model import inputs_of
from training.autodiff.registry import RULES, Context, Rule
from training.autodiff.rules import normalization

# Functions with f(0) = 0. A rectifier's f(x)/x is its slope.
ACTIVATIONS = ("Celu", "Elu", "Gelu", "HardSwish", "LpNormalization", "Mish", "Selu", "Softsign")
# Roots are gates because they are the denominators of normalisations. Tanh is the last, because
# the cell of a recurrent network is the product of a Sigmoid, its gate, and of a Tanh.
ROOTS = ("ReduceL2", "Sqrt")
GATES = (*ROOTS, "Erf", "HardSigmoid", "Sigmoid", "Tanh")
FACTORS = ("Einsum", "MatMul", "Mul")
# Between a gate's function and the product: 1 + erf(x/√2), 1/√variance · scale.
# fmt: off
ON_THE_WAY = {
    "Add", "Cast", "Clip", "Div", "Expand", "Identity", "Max", "Mul", "Neg", "Reciprocal",
    "Reshape", "Sub", "Unsqueeze",
}
# fmt: on


def _ratio(ctx: Context) -> dict[int, str]:
    """The rule g · y/x; 0 where x = 0."""
    graph = ctx.graph
    is_zero = graph.node("Equal", ctx.x, graph.constant(0.0))
    divisor = graph.node("Where", is_zero, graph.constant(1.0), ctx.x)
    return {0: graph.node("Mul", ctx.gradient, graph.node("Div", ctx.y, divisor))}


def _shared(plain: Rule) -> Rule:
    """The rule `plain`, each gradient divided by the number of inputs that depend on the image."""

    def share(ctx: Context) -> Mapping[int, str]:
        count = sum(ctx.needs_gradient)
        gradients = plain(ctx)
        if count == 1:
            return gradients
        return {index: ctx.graph.node("Mul", g, 1 / count) for index, g in gradients.items()}

    return share


NORMALISATIONS = {
    "GroupNormalization": normalization.group_normalization,
    "InstanceNormalization": normalization.instance_normalization,
    "LayerNormalization": normalization.layer_normalization,
}
RELEVANCE: Mapping[str, Rule] = {
    **RULES,
    **dict.fromkeys((*ACTIVATIONS, "Tanh"), _ratio),
    **{operator: _shared(RULES[operator]) for operator in FACTORS},
    **{
        operator: partial(rule, back=normalization.with_constant_deviation)
        for operator, rule in NORMALISATIONS.items()
    },
}


def nodes_before(graph: Graph, output: str) -> list[NodeProto]:
    """The nodes that `output` depends on, in their order."""
    needed, found = {output}, []
    for node in reversed(graph.model.graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1]


def gates(nodes: Sequence[NodeProto], x: str) -> list[NodeProto]:
    """The nodes that do nothing but scale something else that depends on `x`, by Mul or Div."""
    found: list[NodeProto] = []
    candidates = [node for node in nodes if node.op_type in GATES]
    readers, active = _readers(nodes), active_tensors(nodes, [x])
    for node in sorted(candidates, key=lambda node: GATES.index(node.op_type)):
        name = node.output[0]
        if name in active and _scales(name, readers, active):
            found.append(node)
            _make_constant(name, readers, active)
    return found


def _make_constant(name: str, readers: Mapping[str, list[NodeProto]], active: set[str]) -> None:
    """Takes `name`, and what depends on the image by it alone, out of `active`, in place."""
    # Only these are visited: unrolled networks have thousands of gates among ten thousands of
    # nodes.
    waiting = [name]
    while waiting:
        name = waiting.pop()
        active.discard(name)
        for node in readers.get(name, []):
            if active.isdisjoint(inputs_of(node)):
                waiting.extend(active.intersection(node.output))


def differs(nodes: Sequence[NodeProto], x: str) -> bool:
    """True if relevance differs much from x · gradient: with attention, or a norm of features."""
    active = active_tensors(nodes, [x])
    return any(
        node.op_type == "LayerNormalization"
        or (node.op_type in ("Einsum", "MatMul") and active.issuperset(node.input))
        for node in nodes
    ) or any(node.op_type in ROOTS for node in gates(nodes, x))


def _readers(nodes: Iterable[NodeProto]) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in inputs_of(node):
            readers.setdefault(name, []).append(node)
    return readers


def _scales(name: str, readers: Mapping[str, list[NodeProto]], active: set[str]) -> bool:
    """True if every way on from the tensor `name` ends as a factor or as a denominator."""
    following = readers.get(name, [])
    return bool(following) and all(_is_scaled(node, name, readers, active) for node in following)


def _is_scaled(
    node: NodeProto, name: str, readers: Mapping[str, list[NodeProto]], active: set[str]
) -> bool:
    others = [other for other in node.input if other != name and other in active]
    if others:
        return node.op_type == "Mul" or (node.op_type == "Div" and node.input[1] == name)
    return node.op_type in ON_THE_WAY and _scales(node.output[0], readers, active)
