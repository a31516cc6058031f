"""Functions of a whole ONNX model: opset, shapes, constants, order, unused parts."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
    shape_inference,
)

# onnx has no shape inference for these; their output is shaped like their first input.
UNINFERRED = {"GroupNormalization"}
SMALL = 4096  # elements of a weight that is copied whole
SHAPES = {TensorProto.INT32, TensorProto.INT64}  # the inference reads values of any number of them


def opset_of(model: ModelProto) -> int:
    """The version of the ONNX operators that `model` uses; 0 if it uses none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def with_shapes(model: ModelProto, *, strict: bool = False) -> ModelProto:
    """A copy of `model` with all shapes that can be inferred.

    Raises:
        InferenceError: the shapes contradict each other, if `strict`.
    """
    stand_in = _without_weights(model)
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


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large weights have a type and a shape alone, for the inference copies it."""
    copy = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
    )
    graph = copy.graph
    graph.name = model.graph.name
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        is_small = np.prod(tensor.dims) <= SMALL or tensor.data_type in SHAPES
        graph.initializer.append(
            tensor
            if is_small
            else TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        )
    return copy


def prune(model: ModelProto) -> None:
    """Drops, in place, nodes and initialisers that no output needs, and all metadata."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            nodes.append(node)
            needed.update(inputs_of(node))
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    # One by one, from the last on: protobuf gives up a list that is emptied and filled again with
    # the model alone, and the weights are copied.
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    _drop_metadata(model)


def _drop_metadata(model: ModelProto) -> None:
    # Exporters write paths of their machine and lines of its code there: neither is to be
    # published, and both would change the digest of the file.
    graph = model.graph
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer)
    for part in parts:
        del part.metadata_props[:]
        part.ClearField("doc_string")


def sort(model: ModelProto) -> None:
    """Moves nodes, in place, behind the nodes that they read; keeps the order otherwise."""
    nodes = list(_sorted(list(model.graph.node)))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def constants_of(model: ModelProto) -> dict[str, TensorProto]:
    """The tensors that are known before a run, by name: initialisers and Constant nodes."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = _value_of(node.attribute[0])
    return constants


def _value_of(attribute: AttributeProto) -> TensorProto:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, TensorProto):
        return value
    dtype = np.float32 if attribute.name.startswith("value_float") else None
    return numpy_helper.from_array(np.asarray(value, dtype))


def inputs_of(node: NodeProto) -> set[str]:
    """The names that a node reads, in its subgraphs, too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.type == AttributeProto.GRAPH else ():
            names |= inputs_of(inner)
    return names


def bottlenecks(model: ModelProto, source: str, target: str) -> Iterator[str]:
    """The tensors through which all of `target` depends on `source`, in the order of the graph.

    The nodes stand in order; the two ends are left out.
    """
    nodes, needed, last_reader = list(model.graph.node), {target}, dict[str, int]()
    for place, node in reversed(list(enumerate(nodes))):
        if not needed.isdisjoint(node.output):
            needed |= inputs_of(node)
            for name in inputs_of(node):
                last_reader.setdefault(name, place)
    reached, pending = {source}, {source}
    for place, node in enumerate(nodes):
        outputs = needed.intersection(node.output)
        if not outputs or reached.isdisjoint(inputs_of(node)):
            continue
        if target in outputs:
            return
        reached |= outputs
        # Those that a later node reads: if there is one alone, all of the rest passes through it.
        pending = {name for name in pending | outputs if last_reader[name] > place}
        if pending == outputs and len(outputs) == 1:
            yield outputs.pop()


def _sorted(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    waiting = {name: node for node in nodes for name in node.output}

    def placed(node: NodeProto) -> Iterator[NodeProto]:
        for name in node.output:
            waiting.pop(name, None)
        # Sorted by name, because the order of a set differs from process to process.
        for name in sorted(inputs_of(node) & waiting.keys()):
            if name in waiting:
                yield from placed(waiting[name])
        yield node

    for node in nodes:
        if any(name in waiting for name in node.output):
            yield from placed(node)
