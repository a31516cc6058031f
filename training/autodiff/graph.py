"""Reverse-mode differentiation of an ONNX graph, as an ONNX graph.

`Graph.gradient` walks the nodes of the forward pass from the outputs to the inputs. The rule of
each operator appends the nodes that turn the gradients of its outputs into those of its inputs. A
tensor that is used several times gets the sum. Both passes share the weights, bit for bit.

The algorithm is that of Griewank and Walther, "Evaluating Derivatives", 2nd ed., 2008, ch. 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, helper

from training.autodiff.builder import Builder, DifferentiationError
from training.autodiff.model import inputs_of, prune, sort
from training.autodiff.registry import EXPANSIONS, RULES, Context, Rule, without_rule

# Step functions and functions of a shape: their gradient is zero wherever they have one.
# fmt: off
DISCRETE = {
    "And", "ArgMax", "ArgMin", "Ceil", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual",
    "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "NonZero", "Not", "OneHot", "Or", "Round",
    "Shape", "Sign", "Size", "Xor",
}
# fmt: on
VALUES_ALONE = {"TopK"}  # their first output depends on x; the others are places


Inputs = Mapping[str, tuple[int, Sequence[Any]]]  # name → element type, shape
Outputs = Mapping[str, tuple[str, int, Sequence[Any]]]  # name → tensor, element type, shape


class Graph(Builder):
    """A model and its reverse pass: `gradient` appends the pass, `finish` makes a model of it."""

    def __init__(self, model: ModelProto) -> None:
        """Copies `model` and writes some operators as plainer ones, that have rules.

        Raises:
            DifferentiationError: the opset is not one of 13 to 21, or an operator that is expanded
                has a form that is not supported.
        """
        super().__init__(model)
        nodes = [node for node in self.model.graph.node if node.op_type in EXPANSIONS]
        for node in nodes:
            outputs = EXPANSIONS[node.op_type](Context(self, node, (), ()))
            self.model.graph.node.remove(node)
            for tensor, name in zip(outputs, node.output, strict=False):
                if name:
                    self.model.graph.node.append(helper.make_node("Identity", [tensor], [name]))
        if nodes:
            sort(self.model)
            self.infer_shapes()

    def gradient(
        self,
        seeds: Mapping[str, str],
        wrt: Sequence[str],
        rules: Mapping[str, Rule] = RULES,
        constant: Iterable[str] = (),
    ) -> dict[str, str]:
        """The gradients with respect to the tensors `wrt`, by the tensor.

        `seeds` are the gradients of some outputs, by the output. The tensors `constant` are taken
        for constants. Another table of `rules` gives something else than gradients.

        Raises:
            DifferentiationError: an operator between has no rule, or the outputs do not depend on
                one of `wrt`.
        """
        forward = list(self.model.graph.node)
        # Only these need a rule, so shape arithmetic and integer subgraphs do without.
        active = active_tensors(forward, wrt, constant)
        _check_rules(forward, active, seeds)
        parts: dict[str, list[str]] = {name: [gradient] for name, gradient in seeds.items()}
        for node in reversed(forward):
            is_reached = any(name in parts for name in node.output)
            if is_reached and any(name in active for name in node.input):
                self._step_back(node, active, parts, rules)
        missing = [name for name in wrt if name not in parts]
        if missing:
            raise DifferentiationError(
                f"the answer does not depend on {', '.join(missing)}: "
                "name a tensor between input and answer"
            )
        return {name: self._total(parts[name]) for name in wrt}

    def finish(self, inputs: Inputs, outputs: Outputs) -> ModelProto:
        """The model with more inputs, and with `outputs` in place of its own."""
        graph = self.model.graph
        for name, (kind, shape) in inputs.items():
            graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
        del graph.output[:]
        for name, (tensor, kind, shape) in outputs.items():
            if tensor != name:
                node = helper.make_node("Identity", [tensor], [name], name=f"output {name}")
                graph.node.append(node)
            graph.output.append(helper.make_tensor_value_info(name, kind, list(shape)))
        # Inferred shapes are of the forward pass alone, and no runtime needs them.
        del graph.value_info[:]
        sort(self.model)
        prune(self.model)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def _step_back(
        self,
        node: NodeProto,
        active: set[str],
        parts: dict[str, list[str]],
        rules: Mapping[str, Rule],
    ) -> None:
        """Adds the share of `node` to the gradients of its inputs."""
        gradients = tuple(
            self._total(parts[name]) if name in parts else None for name in node.output
        )
        ctx = Context(self, node, gradients, tuple(name in active for name in node.input))
        for index, gradient in rules[node.op_type](ctx).items():
            if ctx.needs_gradient[index]:
                parts.setdefault(node.input[index], []).append(gradient)

    def _total(self, parts: list[str]) -> str:
        """The sum of `parts`, which becomes their only element: it is computed once."""
        while len(parts) > 1:
            parts[:2] = [self.node("Add", parts[0], parts[1])]
        return parts[0]


def active_tensors(
    nodes: Iterable[NodeProto], wrt: Iterable[str], constant: Iterable[str] = ()
) -> set[str]:
    """The tensors that depend on the values of `wrt`, not only on its shape or on a comparison.

    The tensors `constant` count as independent, and so does what depends on `wrt` by them alone.
    """
    active, stops = set(wrt), set(constant)
    for node in nodes:
        # A branch or a loop may read the image without naming it as an input.
        if node.op_type not in DISCRETE and not active.isdisjoint(inputs_of(node)):
            outputs = node.output[:1] if node.op_type in VALUES_ALONE else node.output
            active.update(name for name in outputs if name and name not in stops)
    return active


def _check_rules(nodes: Sequence[NodeProto], active: set[str], seeds: Iterable[str]) -> None:
    """Raises an error for the first node between image and answer that has no rule.

    Before any rule: behind an operator that nobody knows, no shape is known either.
    """
    needed, between = set(seeds), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed |= inputs_of(node)
            if not active.isdisjoint(node.output):
                between.append(node)
    for node in reversed(between):
        if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
            raise without_rule(node)
