"""The table of rules, and a node of the forward pass as its rule sees it.

A rule gets the gradients of a node's outputs and returns those of its inputs, by index. It may
return gradients that nobody needs; it saves their nodes where `needs_gradient` is false.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from training.autodiff.builder import Builder, DifferentiationError

WITHOUT_IT = "export the network without it"


@dataclass(frozen=True)
class Context:
    """A node, and the gradients that reached its outputs; torch calls the same thing ctx.

    `gradients` has a name for each output, None for an output that the answer does not depend on.
    `needs_gradient` has a flag for each input: the input depends on the image.
    """

    graph: Builder
    node: NodeProto
    gradients: tuple[str | None, ...]
    needs_gradient: tuple[bool, ...]

    @property
    def gradient(self) -> str:
        """The gradient of the first output: g in the formulas of the rules."""
        if self.gradients[0] is None:
            raise self.unsupported("the answer depends on another output, not on its first")
        return self.gradients[0]

    @property
    def x(self) -> str:
        """The first input."""
        return str(self.node.input[0])

    @property
    def y(self) -> str:
        """The first output."""
        return str(self.node.output[0])

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, text as str; `default` if the node has none."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant_input(self, index: int) -> np.ndarray | None:
        """The value of an optional input; None where the node has no such input.

        Raises:
            DifferentiationError: the input is computed at run time.
        """
        if len(self.node.input) <= index or not self.node.input[index]:
            return None
        value = self.graph.value(self.node.input[index])
        if value is None:
            raise self.unsupported(f"its input {self.node.input[index]} is computed at run time")
        return value

    def unsupported(self, reason: str) -> DifferentiationError:
        """The error for this node, to be raised."""
        return _no_gradient(self.node, f"{reason}; {WITHOUT_IT}")


Rule = Callable[[Context], Mapping[int, str]]
RULES: dict[str, Rule] = {}

# Appends plainer nodes, and returns what stands for the node's outputs.
Expansion = Callable[[Context], tuple[str, ...]]
EXPANSIONS: dict[str, Expansion] = {}

IN_INTEGERS = "it computes in integers"
OF_ROUNDS = "the number of its rounds is not a constant"
REASONS = {  # of operators that have no rule
    "ConvInteger": IN_INTEGERS,
    "DynamicQuantizeLinear": IN_INTEGERS,
    "If": "its condition is known only when it runs",
    "Loop": OF_ROUNDS,
    "MatMulInteger": IN_INTEGERS,
    "QLinearConv": IN_INTEGERS,
    "QLinearMatMul": IN_INTEGERS,
    "Scan": OF_ROUNDS,
}
REMEDIES = {  # other than an export without the operator
    IN_INTEGERS: "give the file in float32, or quantised by QuantizeLinear and DequantizeLinear",
}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of `operators`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


def expansion(operator: str) -> Callable[[Expansion], Expansion]:
    """Registers a function as the expansion of `operator`."""

    def register(function: Expansion) -> Expansion:
        EXPANSIONS[operator] = function
        return function

    return register


def without_rule(node: NodeProto) -> DifferentiationError:
    """The error for a node of an operator without a rule, to be raised."""
    if node.domain.startswith("com.microsoft"):
        reason = "ONNX Runtime's optimiser or quantiser wrote it; give the file as it was before"
        return _no_gradient(node, reason)
    reason = REASONS.get(node.op_type, "there is no rule for the operator")
    return _no_gradient(node, f"{reason}; {REMEDIES.get(reason, WITHOUT_IT)}")


def _no_gradient(node: NodeProto, reason: str) -> DifferentiationError:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}:"
    name = node.name or next(output for output in node.output if output)
    return DifferentiationError(
        f"no gradient through {domain}{node.op_type} (node {name}): {reason}, "
        "or make the bundle without gradient methods"
    )
