"""Reverse-mode differentiation of an ONNX graph, as an ONNX graph: needs numpy and onnx, and no training framework.

Concept: a `Graph` is a copy of a model to which nodes are appended. `Graph.gradient` walks the nodes that were there from the outputs
to the inputs; a rule for each operator (training.autodiff.rules) appends the nodes that turn the gradient of the node's output into
the gradients of its inputs; a value that is used several times sums what comes back. Weights are shared with the forward pass bit for
bit. Only nodes on a path from the inputs in question are visited, so shape arithmetic and integer subgraphs need no rule.

Opsets 13 to 21; shapes static but for the batch. The emitted operators mean the same in all of them. Prior art: ONNXExplainer
(arXiv 2309.16916) differentiates for DeepSHAP alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper, shape_inference

OLDEST_OPSET, NEWEST_OPSET = 13, 21
DISCRETE = {  # steps: their gradient is zero wherever they have one
    *(
        "And",
        "ArgMax",
        "ArgMin",
        "Ceil",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonZero",
    ),
    *("Not", "Or", "Round", "Shape", "Sign", "Size", "Xor"),
}

UNINFERRED = (
    "GroupNormalization",
)  # as large as their first input; onnx has no shape inference for them

Shape = tuple[int | None, ...]


class DifferentiationError(Exception):
    """A graph cannot be differentiated; the message names the operator and the node, and says what can be done."""


@dataclass(frozen=True)
class Call:
    """One node on the way back: what a rule sees. Names stand for tensors; `gradients` has one entry an output, None = not used."""

    graph: "Graph"
    node: NodeProto
    gradients: tuple[str | None, ...]
    wanted: tuple[bool, ...]

    @property
    def gradient(self) -> str:
        """The gradient of the first output."""
        if self.gradients[0] is None:
            raise self.unsupported(
                "its first output is not on the way to the answer, another one is"
            )
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
        """The value of an attribute; text as str."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant_input(self, index: int) -> np.ndarray | None:
        """The value of an optional input that must be known when the graph is made; None where it is absent."""
        if len(self.node.input) <= index or not self.node.input[index]:
            return None
        value = self.graph.value(self.node.input[index])
        if value is None:
            raise self.unsupported(f"its input {self.node.input[index]} is computed at run time")
        return value

    def unsupported(self, reason: str) -> DifferentiationError:
        """The error that says why this node has no gradient."""
        return DifferentiationError(
            f"no gradient through {self.node.op_type} (node {self.node.name or self.node.output[0]}): {reason}; "
            "export the network without it, or make the bundle without gradient methods"
        )


Rule = Callable[[Call], Mapping[int, str]]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Registers a rule: from the gradients of the outputs to the gradients of the wanted inputs, by index."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


class Graph:
    """A model that grows. `node` and `constant` append, `shape` and `value` look up, `gradient` differentiates."""

    def __init__(self, model: ModelProto) -> None:
        """Copies `model`, inlines its functions and infers its shapes.

        Raises:
            DifferentiationError: the opset is not one of 13 to 21.
        """
        inlined = inliner.inline_local_functions(model) if model.functions else model
        self.opset = next(
            (o.version for o in inlined.opset_import if o.domain in ("", "ai.onnx")), 0
        )
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise DifferentiationError(
                f"the graph has opset {self.opset}; {OLDEST_OPSET} to {NEWEST_OPSET} are differentiated: convert it with onnx.version_converter"
            )
        self.model = with_shapes(inlined)
        graph = self.model.graph
        self._values = {tensor.name: tensor for tensor in graph.initializer} | dict(
            _constants(graph.node)
        )
        self._types = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
        self._cache: dict[Any, str] = {}
        self._count = 0

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output, and names that output."""
        return self.nodes(operator, *inputs, outputs=1, **attributes)[0]

    def nodes(
        self, operator: str, *inputs: str, outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Appends a node with several outputs."""
        names = tuple(self._name(operator) for _ in range(outputs))
        self.model.graph.node.append(
            helper.make_node(operator, list(inputs), list(names), name=names[0], **attributes)
        )
        return names

    def replace(self, node: NodeProto, operator: str, *inputs: str) -> None:
        """Makes `node` another operator with the same output, which may read what is appended after it."""
        node.op_type = operator
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """An initialiser with `value`; floats become float32, the same value is kept once."""
        array = np.asarray(value, dtype)
        if dtype is None and array.dtype.kind == "f":
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._cache:
            name = self._name("constant")
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            self.model.graph.initializer.append(tensor)
            self._values[name] = tensor
            self._cache[key] = name
        return self._cache[key]

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def value(self, name: str) -> np.ndarray | None:
        """The value of a constant, None for what is computed at run time."""
        return numpy_helper.to_array(self._values[name]) if name in self._values else None

    def shape(self, name: str) -> Shape:
        """The shape of a tensor of the forward pass; None for the batch.

        Raises:
            DifferentiationError: shape inference could not tell.
        """
        if name in self._values:
            return tuple(self._values[name].dims)
        kind = self._types[name].type.tensor_type if name in self._types else None
        if kind is None or not kind.HasField("shape"):
            raise DifferentiationError(
                f"the shape of {name} is unknown: export the network with static image sizes"
            )
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)

    def size(self, name: str, axes: Iterable[int]) -> int:
        """How many elements lie along `axes`, all static.

        Raises:
            DifferentiationError: one of them is not.
        """
        sizes = [self.shape(name)[axis] for axis in axes]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            raise DifferentiationError(
                f"{name} has shape {self.shape(name)}: only the batch may be free, export with static image sizes"
            )
        return int(np.prod(known, dtype=np.int64))

    def dtype(self, name: str) -> int:
        """The ONNX element type of a tensor of the forward pass."""
        return int(
            self._values[name].data_type
            if name in self._values
            else self._types[name].type.tensor_type.elem_type
        )

    def like(self, gradient: str, name: str) -> str:
        """`gradient` in the shape of `name`, which has as many elements."""
        shape = self.shape(name)
        if sum(size is None for size in shape) <= 1:
            return self.node(
                "Reshape",
                gradient,
                self.integers(*(-1 if size is None else size for size in shape)),
            )
        return self.node("Reshape", gradient, self.run_time_shape(name))

    def run_time_shape(self, name: str) -> str:
        """The shape of `name` as an int64 tensor."""
        return self._cached(("shape", name), lambda: self.node("Shape", name))

    def zeros_like(self, name: str) -> str:
        """Zeros in the shape of `name`."""
        return self.node("Mul", name, self.constant(0.0))

    def sum(self, name: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """The sum over `axes`."""
        return self.node("ReduceSum", name, self.integers(*axes), keepdims=int(keep))

    def unbroadcast(self, gradient: str, name: str, output: str) -> str:
        """`gradient`, shaped like `output`, summed down to the shape of `name` that was broadcast to it."""
        small, large = self.shape(name), self.shape(output)
        if small == large:
            return gradient
        padded = (1,) * (len(large) - len(small)) + small
        axes = [
            axis for axis, (a, b) in enumerate(zip(padded, large, strict=True)) if a == 1 and b != 1
        ]
        summed = self.sum(gradient, axes) if axes else gradient
        return self.like(summed, name) if len(small) != len(large) else summed

    def gradient(self, seeds: Mapping[str, str], wrt: Sequence[str]) -> dict[str, str]:
        """The gradients with respect to the tensors `wrt`, given the gradients `seeds` of some outputs; both map tensor → name.

        Raises:
            DifferentiationError: an operator on the way has no rule, or the outputs do not depend on one of `wrt`.
        """
        forward = list(self.model.graph.node)
        active = _active(forward, wrt)
        totals: dict[str, list[str]] = {name: [gradient] for name, gradient in seeds.items()}
        for node in reversed(forward):
            if any(name in totals for name in node.output) and any(
                name in active for name in node.input
            ):
                self._step_back(node, active, totals)
        missing = [name for name in wrt if name not in totals]
        if missing:
            raise DifferentiationError(
                f"the answer does not depend on {', '.join(missing)}: name a tensor between input and answer"
            )
        return {name: self._total(totals, name) for name in wrt}

    def finish(
        self,
        inputs: Mapping[str, tuple[int, Sequence[Any]]],
        outputs: Mapping[str, tuple[str, int, Sequence[Any]]],
    ) -> ModelProto:
        """The model with further `inputs` (name → type, shape) and with `outputs` (name → tensor, type, shape) in place of its own."""
        graph = self.model.graph
        for name, (kind, shape) in inputs.items():
            graph.input.append(helper.make_tensor_value_info(name, kind, list(shape)))
        del graph.output[:]
        for name, (tensor, kind, shape) in outputs.items():
            if tensor != name:
                graph.node.append(
                    helper.make_node("Identity", [tensor], [name], name=f"output {name}")
                )
            graph.output.append(helper.make_tensor_value_info(name, kind, list(shape)))
        del graph.value_info[:]
        nodes = list(_in_order(graph.node))
        del graph.node[:]
        graph.node.extend(nodes)
        prune(self.model)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model

    def _step_back(self, node: NodeProto, active: set[str], totals: dict[str, list[str]]) -> None:
        gradients = tuple(
            self._total(totals, name) if name in totals else None for name in node.output
        )
        call = Call(self, node, gradients, tuple(name in active for name in node.input))
        if node.op_type not in RULES or node.domain not in ("", "ai.onnx"):
            raise call.unsupported("there is no rule for the operator")
        for index, gradient in RULES[node.op_type](call).items():
            if node.input[index] in active:
                totals.setdefault(node.input[index], []).append(gradient)

    def _total(self, totals: dict[str, list[str]], name: str) -> str:
        parts = totals[name]
        while len(parts) > 1:
            parts[:2] = [self.node("Add", parts[0], parts[1])]
        return parts[0]

    def _cached(self, key: Any, make: Callable[[], str]) -> str:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"gradient/{operator}_{self._count}"


def with_shapes(model: ModelProto, *, strict: bool = False) -> ModelProto:
    """A copy of `model` that says the shape of every tensor whose shape can be known.

    Raises:
        InferenceError: the shapes contradict each other, if `strict`.
    """
    stand_in = onnx.ModelProto()
    stand_in.CopyFrom(model)
    for node in stand_in.graph.node:
        if node.op_type in UNINFERRED:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    inferred = shape_inference.infer_shapes(stand_in, data_prop=True, strict_mode=strict).graph
    known = onnx.ModelProto()
    known.CopyFrom(model)
    for ours, theirs in (
        (known.graph.value_info, inferred.value_info),
        (known.graph.input, inferred.input),
        (known.graph.output, inferred.output),
    ):
        del ours[:]
        ours.extend(theirs)
    return known


def prune(model: ModelProto) -> None:
    """Drops, in place, the nodes and initialisers that no output needs, and all metadata (it names files of the exporting machine)."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(_reads(node))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:], model.metadata_props[:], graph.metadata_props[:]
    for node in kept:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
    for info in (*graph.input, *graph.output, *graph.initializer):
        del info.metadata_props[:]
        info.ClearField("doc_string")
    model.ClearField("doc_string")
    graph.ClearField("doc_string")


def _reads(node: NodeProto) -> set[str]:
    """What a node reads, its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.type == onnx.AttributeProto.GRAPH else ():
            names |= _reads(inner)
    return names


def _in_order(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes as they come, but each behind those that it reads."""
    waiting = {name: node for node in nodes for name in node.output}

    def placed(node: NodeProto) -> Iterator[NodeProto]:
        for name in node.output:
            waiting.pop(name, None)
        for name in sorted(_reads(node) & waiting.keys()):
            if name in waiting:
                yield from placed(waiting[name])
        yield node

    for node in nodes:
        if any(name in waiting for name in node.output):
            yield from placed(node)


def _active(nodes: Iterable[NodeProto], wrt: Iterable[str]) -> set[str]:
    """The tensors that depend on `wrt`, otherwise than by its shape or by a comparison."""
    active = set(wrt)
    for node in nodes:
        if node.op_type not in DISCRETE and any(name in active for name in node.input):
            active.update(node.output)
    return active


def _constants(nodes: Iterable[NodeProto]) -> Iterable[tuple[str, TensorProto]]:
    for node in nodes:
        if node.op_type == "Constant":
            value = helper.get_attribute_value(node.attribute[0])
            if not isinstance(value, TensorProto):
                value = numpy_helper.from_array(
                    np.asarray(
                        value,
                        np.float32 if node.attribute[0].name.startswith("value_float") else None,
                    )
                )
            yield node.output[0], value
