"""Loops of a known number of rounds, unrolled: the differentiation knows no subgraphs."""

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from training.autodiff import constants_of

MOST_ROUNDS = 256  # of a loop that is unrolled
STATE = 2  # inputs of a Loop and of its body before what a round hands on

Constants = Mapping[str, TensorProto]


def unroll(model: ModelProto) -> None:
    """Replaces each Loop by its rounds, in place, where their number is a constant."""
    graph = model.graph
    constants = constants_of(model)
    while any(_rounds(node, constants) is not None for node in graph.node):
        nodes = list(graph.node)
        del graph.node[:]
        for node in nodes:
            rounds = _rounds(node, constants)
            graph.node.extend([node] if rounds is None else _unrolled(node, rounds, graph))
        constants = constants_of(model)  # a round may hold a loop


def _rounds(node: NodeProto, constants: Constants) -> int | None:
    """The number of rounds of a Loop; None for another node, or a number that is not known."""
    if node.op_type != "Loop" or node.input[0] not in constants:
        return None
    rounds = int(numpy_helper.to_array(constants[node.input[0]]).reshape(()))
    if not 0 < rounds <= MOST_ROUNDS or not _is_true(node.input[1], constants):
        return None
    body = node.attribute[0].g
    inside = {**constants, **_constants(body)}
    makers = {name: inner for inner in body.node for name in inner.output}
    name = body.output[0].name
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    goes_on = name == body.input[1].name or (name in inside and _is_true(name, inside))
    return rounds if goes_on else None


def _is_true(name: str, constants: Constants) -> bool:
    return not name or (name in constants and bool(numpy_helper.to_array(constants[name]).all()))


def _constants(body: GraphProto) -> dict[str, TensorProto]:
    return constants_of(ModelProto(graph=body))


def _unrolled(node: NodeProto, rounds: int, graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of all rounds; weights of the body are added to `graph`."""
    body, prefix = node.attribute[0].g, f"{node.name or node.output[0]}/"
    shared = {tensor.name: f"{prefix}{tensor.name}" for tensor in body.initializer}
    for tensor in body.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = shared[tensor.name]
    state = list(node.input[STATE:])
    collected: list[list[str]] = []
    for number in range(rounds):
        names = shared | _round_names(body, f"{prefix}{number}/", state)
        yield _given(body.input[0], names, np.int64(number))
        yield _given(body.input[1], names, np.True_)
        yield from (renamed(inner, names) for inner in body.node)
        results = [names.get(output.name, output.name) for output in body.output[1:]]
        state = results[: len(state)]
        collected.append(results[len(state) :])
    yield from _results(node, state, collected)


def _round_names(body: GraphProto, prefix: str, state: list[str]) -> dict[str, str]:
    """The tensors of the body, by their names in one round."""
    made = [name for inner in body.node for name in inner.output if name]
    given = [info.name for info in body.input]
    names = {name: f"{prefix}{name}" for name in (*given[:STATE], *made)}
    return names | dict(zip(given[STATE:], state, strict=True))


def _given(info: ValueInfoProto, names: Mapping[str, str], value: np.generic) -> NodeProto:
    """The constant that a round gets for its number or its condition."""
    rank = len(info.type.tensor_type.shape.dim)
    tensor = numpy_helper.from_array(np.asarray(value).reshape((1,) * rank))
    return helper.make_node("Constant", [], [names[info.name]], value=tensor)


def _results(node: NodeProto, state: list[str], collected: list[list[str]]) -> Iterator[NodeProto]:
    """The outputs of the Loop: what the last round hands on, and what all rounds collect."""
    for name, output in zip(state, node.output, strict=False):
        if output:
            yield helper.make_node("Identity", [name], [output])
    for column, output in zip(
        zip(*collected, strict=True), node.output[len(state) :], strict=False
    ):
        if output:
            axes = f"{output}/axes"
            first = numpy_helper.from_array(np.zeros(1, np.int64))
            yield helper.make_node("Constant", [], [axes], value=first)
            rows = [f"{output}/{number}" for number in range(len(column))]
            for name, row in zip(column, rows, strict=True):
                yield helper.make_node("Unsqueeze", [name, axes], [row])
            yield helper.make_node("Concat", rows, [output], axis=0)


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node with other names for its tensors, also where its subgraphs read them."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for tensors in (copy.input, copy.output):
        for index, name in enumerate(tensors):
            tensors[index] = names.get(name, name)
    for attribute in copy.attribute:
        if attribute.type == AttributeProto.GRAPH:
            inner = [renamed(each, names) for each in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inner)
            for output in attribute.g.output:
                output.name = names.get(output.name, output.name)
    return copy
