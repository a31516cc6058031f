"""Lists of tensors inside a graph, taken apart: the differentiation knows tensors alone.

TorchScript writes split, chunk, unbind and a stack of a list so: SplitToSequence, SequenceAt,
ConcatFromSequence. A list of a known length is the tensors in it, by name.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from training.autodiff import constants_of

OURS = "list/"  # begins the names of tensors that are added here
MOST_PARTS = 256

Shape = Sequence[int]


class _Lists:
    """The lists of known length, by name, and the nodes that take their place."""

    def __init__(self, model: ModelProto, shapes: Mapping[str, Shape]) -> None:
        self._model, self._shapes = model, shapes
        self._constants = constants_of(model)
        self._lists: dict[str, list[str]] = {}

    def nodes(self, node: NodeProto) -> Iterator[NodeProto]:
        """The nodes in the place of `node`: itself, if it does not read or make such a list."""
        known = self._lists.get(node.input[0]) if node.input else None
        match node.op_type:
            case "SequenceEmpty":
                self._lists[node.output[0]] = []
            case "SequenceConstruct":
                self._lists[node.output[0]] = list(node.input)
            case "SplitToSequence":
                yield from self._split(node)
                return
            case "Identity" if known is not None:
                self._lists[node.output[0]] = known
            case "SequenceInsert" | "SequenceErase" if known is not None:
                self._edited(node, known)
            case "SequenceAt" if known is not None:
                place = self._value(node.input[1])
                if place is not None:
                    name = known[int(place.reshape(()))]
                    yield helper.make_node("Identity", [name], list(node.output))
                    return
            case "SequenceLength" if known is not None:
                length = numpy_helper.from_array(np.array(len(known), np.int64))
                yield helper.make_node("Constant", [], list(node.output), value=length)
                return
            case "ConcatFromSequence" if known:
                yield from self._joined(node, known)
                return
        yield node

    def _value(self, name: str) -> np.ndarray | None:
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def _constant(self, name: str, value: Sequence[int]) -> str:
        array = np.array(value, np.int64)
        self._model.graph.initializer.append(numpy_helper.from_array(array, f"{OURS}{name}"))
        return f"{OURS}{name}"

    def _edited(self, node: NodeProto, known: list[str]) -> None:
        """Notes the list with one tensor more or less."""
        is_insert = node.op_type == "SequenceInsert"
        given = node.input[2 if is_insert else 1 :]
        place = self._value(given[0]) if given else np.array(len(known) if is_insert else -1)
        if place is None:
            return
        edited = list(known)
        if is_insert:
            edited.insert(int(place), node.input[1])
        else:
            edited.pop(int(place))
        self._lists[node.output[0]] = edited

    def _split(self, node: NodeProto) -> Iterator[NodeProto]:
        """The node as a Split, its parts squeezed where they have one element, if that is known."""
        attributes = {each.name: each.i for each in node.attribute}
        sizes, name = self._sizes(node, attributes.get("axis", 0)), node.output[0]
        if sizes is None or name in self._lists:
            yield node
            return
        axis = attributes.get("axis", 0)
        parts = [f"{OURS}{name}/{number}" for number in range(len(sizes))]
        self._lists[name] = parts
        is_squeezed = len(node.input) == 1 and not attributes.get("keepdims", 1)
        made = [f"{part}/whole" for part in parts] if is_squeezed else parts
        inputs = [node.input[0], self._constant(f"{name}/sizes", sizes)]
        yield helper.make_node("Split", inputs, made, axis=axis)
        if is_squeezed:
            axes = self._constant(f"{name}/axes", [axis])
            for whole, part in zip(made, parts, strict=True):
                yield helper.make_node("Squeeze", [whole, axes], [part])

    def _sizes(self, node: NodeProto, axis: int) -> list[int] | None:
        """The sizes of the parts; None if they are not known."""
        shape = self._shapes.get(node.input[0])
        whole = 0 if shape is None else shape[axis]
        asked = self._value(node.input[1]) if len(node.input) > 1 else np.array(1)
        if asked is None:
            return None
        if asked.ndim:
            return [int(size) for size in asked]
        starts = range(0, whole, int(asked))
        sizes = [min(int(asked), whole - start) for start in starts]
        return sizes if 0 < len(sizes) <= MOST_PARTS else None

    def _joined(self, node: NodeProto, known: list[str]) -> Iterator[NodeProto]:
        attributes = {each.name: each.i for each in node.attribute}
        axis, names = attributes["axis"], known
        if attributes.get("new_axis", 0):
            axes = self._constant(f"{node.output[0]}/axes", [axis])
            names = [f"{OURS}{node.output[0]}/{number}" for number in range(len(known))]
            for name, wide in zip(known, names, strict=True):
                yield helper.make_node("Unsqueeze", [name, axes], [wide])
        yield helper.make_node("Concat", names, list(node.output), axis=axis)


def take_apart(model: ModelProto, shapes: Mapping[str, Shape]) -> None:
    """Replaces, in place, lists of a known length by their tensors.

    `shapes` are those of tensors; one without a size that can be relied on is left out. Nodes that
    make lists stay for those that still read them.
    """
    lists = _Lists(model, shapes)
    nodes = [made for node in model.graph.node for made in lists.nodes(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
