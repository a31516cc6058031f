"""Evaluation of an ONNX graph in float64, and the slope of its outputs.

Weights and constants are widened, and every operator runs in float64. What is left of a difference
between two computations is then no rounding of the graph, but a fault.

A slope is that of the complex step: Im f(x + i·h·d) / h is the derivative along d to the last digit
or two, for nothing is subtracted, and h can be so small that no unit crosses its kink (Squire and
Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review 40, 1998).
It knows nothing of the rules of `training.autodiff`.

x float64 (N, 3, S, S), or complex128; results as the graph names them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from training.autodiff import Graph, prune
from training.autodiff.model import constants_of
from training.autodiff.registry import EXPANSIONS
from training.export.operators import OPERATORS

STEP = 1e-40  # of the complex step; slopes of 1e-200 are still far from the smallest float64

Array = Shaped[np.ndarray, "..."]


class Exact:
    """A graph in float64, from some of its tensors to others."""

    def __init__(
        self, model: ModelProto, outputs: Sequence[str], *, given: Sequence[str] = ()
    ) -> None:
        """Prepares `model` for `outputs`; tensors in `given` are fed instead of computed."""
        cut = ModelProto()
        # Recurrent layers and the like are made of plain operators, as for the gradient.
        is_plain = all(node.op_type not in EXPANSIONS for node in model.graph.node)
        cut.CopyFrom(model if is_plain else Graph(model).model)
        constants = constants_of(cut)
        nodes = [
            node
            for node in cut.graph.node
            if node.op_type != "Constant" and not set(given).intersection(node.output)
        ]
        del cut.graph.node[:], cut.graph.output[:]
        cut.graph.node.extend(nodes)
        for name in outputs:
            cut.graph.output.add().name = name
        prune(cut)
        used = {name for node in cut.graph.node for name in node.input}
        self._constants = {
            name: _widened(numpy_helper.to_array(tensor))
            for name, tensor in constants.items()
            if name in used
        }
        del cut.graph.initializer[:]
        self.outputs = list(outputs)
        self._evaluator = ReferenceEvaluator(cut, new_ops=OPERATORS)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs, in their order."""
        with np.errstate(all="ignore"):  # an overflow shows in the outputs
            results: list[Any] = list(
                self._evaluator.run(self.outputs, {**self._constants, **feeds})
            )
        return results

    def slope(self, feeds: Mapping[str, Array], along: Mapping[str, Array]) -> list[Array]:
        """The derivatives of the outputs where the tensors of `along` move in its directions."""
        moved = {name: feeds[name] + 1j * STEP * direction for name, direction in along.items()}
        return [np.imag(output) / STEP for output in self.run({**feeds, **moved})]


def _widened(values: Array) -> Array | Float64[np.ndarray, "..."]:
    return values if values.dtype.kind in "biu" else values.astype(np.float64)
