"""A model that grows: nodes and constants are appended, shapes, types and values looked up.

Tensors go by their names. A float where a tensor is expected stands for a float32 constant.
Emitted operators mean the same in every opset from 13 to 21.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, inliner, numpy_helper

from training.autodiff.model import constants_of, opset_of, with_shapes

OLDEST_OPSET, NEWEST_OPSET = 13, 21

Shape = tuple[int | None, ...]


class DifferentiationError(Exception):
    """A graph cannot be differentiated; the message names the operator, the node and a remedy."""


class Builder:
    """A copy of a model to which nodes are appended.

    `node` and `constant` append; `shape`, `size`, `dtype` and `value` look up. The rest are
    steps that several rules share.
    """

    def __init__(self, model: ModelProto) -> None:
        """Copies `model`, inlines its functions and infers its shapes.

        Raises:
            DifferentiationError: the opset is not one of 13 to 21.
        """
        inlined = inliner.inline_local_functions(model) if model.functions else model
        self.opset = opset_of(inlined)
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise DifferentiationError(
                f"the graph has opset {self.opset}; {OLDEST_OPSET} to {NEWEST_OPSET} can be "
                "differentiated: convert it with onnx.version_converter"
            )
        self.model = inlined
        self.infer_shapes()
        self._constants = constants_of(self.model)
        self._cache: dict[Any, str] = {}
        self._count = 0

    def infer_shapes(self) -> None:
        """Makes the model a copy with shapes, those of nodes that were appended included."""
        self.model = with_shapes(self.model)
        graph = self.model.graph
        self._types = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}

    def node(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Appends a node with one output and returns that output."""
        return self.nodes(operator, *inputs, outputs=1, **attributes)[0]

    def nodes(
        self, operator: str, *inputs: str | float, outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Appends a node with several outputs and returns them."""
        tensors = [self.constant(x) if isinstance(x, float) else x for x in inputs]
        names = tuple(self._name(operator) for _ in range(outputs))
        self.model.graph.node.append(
            helper.make_node(operator, tensors, list(names), name=names[0], **attributes)
        )
        return names

    def replace(self, node: NodeProto, operator: str, *inputs: str) -> None:
        """Makes `node` another operator with the same output, which may read later nodes."""
        node.op_type = operator
        del node.input[:], node.attribute[:]
        node.input.extend(inputs)

    def constant(self, value: Any, dtype: Any = None) -> str:
        """An initialiser, one for equal values; floats become float32 unless `dtype` is given."""
        array = np.asarray(value, dtype)
        if dtype is None and array.dtype.kind == "f":
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._cache:
            name = self._name("constant")
            # ascontiguousarray turns a scalar into a vector; reshape turns it back.
            tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
            self.model.graph.initializer.append(tensor)
            self._constants[name] = tensor
            self._cache[key] = name
        return self._cache[key]

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def value(self, name: str) -> np.ndarray | None:
        """The value of a constant; None for a tensor that is computed at run time."""
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def shape(self, name: str) -> Shape:
        """The shape of a tensor of the forward pass; None for a free dimension.

        Raises:
            DifferentiationError: the shape cannot be inferred.
        """
        if name in self._constants:
            return tuple(self._constants[name].dims)
        kind = self._types[name].type.tensor_type if name in self._types else None
        if kind is None or not kind.HasField("shape"):
            raise DifferentiationError(
                f"the shape of {name} is unknown: export the network with static image sizes"
            )
        return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)

    def size(self, name: str, axes: Iterable[int]) -> int:
        """The number of elements along `axes`.

        Raises:
            DifferentiationError: one of the axes is free.
        """
        sizes = [self.shape(name)[axis] for axis in axes]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            raise DifferentiationError(
                f"{name} has shape {self.shape(name)}: "
                "only the batch may be free, export with static image sizes"
            )
        return int(np.prod(known, dtype=np.int64))

    def dtype(self, name: str) -> int:
        """The ONNX element type of a tensor of the forward pass."""
        if name in self._constants:
            return int(self._constants[name].data_type)
        return int(self._types[name].type.tensor_type.elem_type)

    def like(self, gradient: str, name: str) -> str:
        """`gradient` in the shape of `name`, which has as many elements."""
        shape = self.shape(name)
        if sum(size is None for size in shape) <= 1:
            sizes = (-1 if size is None else size for size in shape)
            return self.node("Reshape", gradient, self.integers(*sizes))
        return self.node("Reshape", gradient, self.run_time_shape(name))

    def run_time_shape(self, name: str) -> str:
        """The shape of `name` as an int64 tensor."""
        return self._cached(("shape", name), lambda: self.node("Shape", name))

    def zeros_like(self, name: str) -> str:
        """Zeros in the shape of `name`."""
        return self.node("Mul", name, 0.0)

    def sum(self, name: str, axes: Sequence[int], *, keep: bool = True) -> str:
        """The sum over `axes`."""
        return self.node("ReduceSum", name, self.integers(*axes), keepdims=int(keep))

    def unbroadcast(self, gradient: str, name: str, output: str) -> str:
        """`gradient`, shaped like `output`, summed down to the shape of `name`.

        `name` was broadcast to the shape of `output`: each of its elements was used several times.
        """
        small, large = self.shape(name), self.shape(output)
        if small == large:
            return gradient
        padded = (1,) * (len(large) - len(small)) + small
        pairs = enumerate(zip(padded, large, strict=True))
        axes = [axis for axis, (before, after) in pairs if before == 1 and after != 1]
        summed = self.sum(gradient, axes) if axes else gradient
        return self.like(summed, name) if len(small) != len(large) else summed

    def _cached(self, key: Any, make: Callable[[], str]) -> str:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def _name(self, operator: str) -> str:
        self._count += 1
        return f"gradient/{operator}_{self._count}"
