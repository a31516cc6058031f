"""Evaluation of an ONNX graph in float64, and the slope of its outputs.

Weights and constants are widened, and every operator runs in float64. What is left of a difference
between two computations is then no rounding of the graph, but a fault.

A slope is that of the complex step: Im f(x + i·h·d) / h is the derivative along d to the last digit
or two, for nothing is subtracted, and h can be so small that no unit crosses its kink (Squire and
Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40, 1998).
It knows nothing of the rules of `training.autodiff`.

A tensor is kept until its last reader has run, and weights stay in float32 until they are read: all
tensors of a network in float64 would take gigabytes.

x float64 (N, 3, S, S), or complex128; results as the graph names them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from training.autodiff import Graph, prune
from training.autodiff.model import constants_of, inputs_of
from training.autodiff.registry import EXPANSIONS
from training.export.operators import OPERATORS

STEP = 1e-40  # of the complex step; slopes of 1e-200 are still far from the smallest float64

Array = Shaped[np.ndarray, "..."]
Values = Mapping[str, Array]


class _Step(NamedTuple):
    """An operator to run, the tensors that it `reads`, and those that nothing reads after it."""

    operator: Any  # an OpRun of onnx.reference, which has no types
    reads: frozenset[str]
    done: frozenset[str]


class Exact:
    """A graph in float64, from some of its tensors to others."""

    def __init__(
        self,
        model: ModelProto,
        outputs: Sequence[str],
        *,
        given: Sequence[str] = (),
        operators: Sequence[type[OpRun]] = OPERATORS,
    ) -> None:
        """Prepares `model` for `outputs`; tensors in `given` are fed instead of computed."""
        # Recurrent layers and the like are made of plain operators, as for the gradient.
        is_plain = all(node.op_type not in EXPANSIONS for node in model.graph.node)
        plain = model if is_plain else Graph(model).model
        cut = _cut(plain, outputs, given)
        self.outputs = list(outputs)
        self._nodes = list(cut.graph.node)
        used = {name for node in self._nodes for name in inputs_of(node)}
        self._constants = {
            name: numpy_helper.to_array(tensor)
            for name, tensor in constants_of(plain).items()
            if name in used
        }
        evaluator = ReferenceEvaluator(cut, new_ops=list(operators))
        self._operators = list(evaluator.rt_nodes_)

    def run(self, feeds: Values) -> list[Array]:
        """The outputs, in their order."""
        values = self._computed(self._steps(range(len(self._nodes)), self.outputs), feeds)
        return [values[name] for name in self.outputs]

    def slope(self, feeds: Values, along: Values) -> list[Array]:
        """The derivatives of the outputs where the tensors of `along` move in its directions."""
        return [np.imag(output) / STEP for output in self.moved(feeds, [along])[0]]

    def moved(self, feeds: Values, ways: Sequence[Values]) -> list[list[Array]]:
        """The outputs for each of `ways`, directions of the same tensors, after a complex step.

        Their real parts are the outputs, their imaginary parts STEP times the derivatives. What
        does not depend on these tensors is computed once.
        """
        moving = self._depending(ways[0])
        fixed = [place for place in range(len(self._nodes)) if place not in set(moving)]
        read = {name for place in moving for name in inputs_of(self._nodes[place])}
        before = self._computed(self._steps(fixed, {*self.outputs, *read}), feeds)
        steps = self._steps(moving, self.outputs)
        results = []
        for way in ways:
            start = {name: feeds[name] + 1j * STEP * move for name, move in way.items()}
            values = self._computed(steps, before | start)
            results.append([values[name] for name in self.outputs])
        return results

    def _depending(self, names: Collection[str]) -> list[int]:
        """The places of the nodes that depend on the tensors `names`."""
        reached, places = set(names), []
        for place, node in enumerate(self._nodes):
            if not reached.isdisjoint(inputs_of(node)):
                reached.update(node.output)
                places.append(place)
        return places

    def _steps(self, places: Sequence[int], kept: Collection[str]) -> list[_Step]:
        """The nodes at `places`; all tensors but those `kept` are given up as early as possible."""
        steps, later = [], set(kept)
        for place in reversed(places):
            reads = frozenset(inputs_of(self._nodes[place]) - {""})
            touched = reads | set(self._nodes[place].output)
            steps.append(_Step(self._operators[place], reads, frozenset(touched - later)))
            later |= reads
        return steps[::-1]

    def _computed(self, steps: Sequence[_Step], feeds: Values) -> dict[str, Array]:
        """The `feeds`, and the tensors that the `steps` compute and keep."""
        values: dict[str, Any] = dict(feeds)
        with np.errstate(all="ignore"):  # an overflow shows in the outputs
            for operator, reads, done in steps:
                constants = reads & self._constants.keys() - values.keys()
                values.update({name: _widened(self._constants[name]) for name in constants})
                inputs = [values[name] if name else None for name in operator.input]
                context = {"context": values} if operator.need_context() else {}
                values.update(zip(operator.output, operator.run(*inputs, **context), strict=False))
                for name in constants | done:
                    values.pop(name, None)
        return values


def _cut(model: ModelProto, outputs: Sequence[str], given: Sequence[str]) -> ModelProto:
    """The nodes of `model` that lead to `outputs`, without weights."""
    cut = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    cut.graph.name = model.graph.name
    cut.graph.input.extend(model.graph.input)
    cut.graph.node.extend(_computing(model.graph.node, given))
    for name in outputs:
        cut.graph.output.add().name = name
    prune(cut)
    return cut


def _computing(nodes: Sequence[NodeProto], given: Sequence[str]) -> Iterator[NodeProto]:
    known = set(given)
    for node in nodes:
        if node.op_type != "Constant" and known.isdisjoint(node.output):
            yield node


def _widened(values: Array) -> Array | Float64[np.ndarray, "..."]:
    return values if values.dtype.kind in "biu" else values.astype(np.float64)
