"""Loops of a known number of rounds, unrolled: the differentiation knows no subgraphs.

A Loop has its number as a constant, a Scan as the size of what it reads.
"""

from collections.abc import Iterator, Mapping, Sequence

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


def unroll_scans(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
    """Replaces each Scan by its rounds, in place, where `shapes` has a size for what it reads."""
    graph = model.graph
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        rounds = _scan_rounds(node, shapes)
        graph.node.extend([node] if rounds is None else _scanned(node, rounds, graph))


def _scan_rounds(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """The number of rounds of a Scan that collects along the first axis; None for others."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    unusual = any(any(given.get(f"scan_output_{name}", ())) for name in ("axes", "directions"))
    if node.op_type != "Scan" or node.domain or unusual:
        return None
    axis, name = given.get("scan_input_axes", [0])[0], node.input[-given["num_scan_inputs"]]
    rounds = shapes[name][axis] if name in shapes else 0
    return rounds if 0 < rounds <= MOST_ROUNDS else None


def _scanned(node: NodeProto, rounds: int, graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of all rounds of a Scan; weights of the body are added to `graph`."""
    given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    body, count = given["body"], given["num_scan_inputs"]
    axes = given.get("scan_input_axes", [0] * count)
    directions = given.get("scan_input_directions", [0] * count)
    prefix = f"{node.name or node.output[0]}/"
    shared = _adopted(body, prefix, graph)
    state, collected = list(node.input[:-count]), []
    for number in range(rounds):
        slices = [f"{prefix}{number}/read {place}" for place in range(count)]
        for name, made, axis, is_back in zip(
            node.input[-count:], slices, axes, directions, strict=True
        ):
            index = numpy_helper.from_array(np.array(rounds - 1 - number if is_back else number))
            yield helper.make_node("Constant", [], [f"{made}/place"], value=index)
            yield helper.make_node("Gather", [name, f"{made}/place"], [made], axis=axis)
        made_here = [name for inner in body.node for name in inner.output if name]
        names = shared | {name: f"{prefix}{number}/{name}" for name in made_here}
        names |= dict(zip((info.name for info in body.input), [*state, *slices], strict=True))
        yield from (renamed(inner, names) for inner in body.node)
        results = [names.get(output.name, output.name) for output in body.output]
        state = results[: len(state)]
        collected.append(results[len(state) :])
    yield from _results(node, state, collected)


def _adopted(body: GraphProto, prefix: str, graph: GraphProto) -> dict[str, str]:
    """Adds the weights of `body` to `graph`; their new names by their old ones."""
    for tensor in body.initializer:
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = f"{prefix}{tensor.name}"
    return {tensor.name: f"{prefix}{tensor.name}" for tensor in body.initializer}


def _is_true(name: str, constants: Constants) -> bool:
    return not name or (name in constants and bool(numpy_helper.to_array(constants[name]).all()))


def _constants(body: GraphProto) -> dict[str, TensorProto]:
    return constants_of(ModelProto(graph=body))


def _unrolled(node: NodeProto, rounds: int, graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of all rounds; weights of the body are added to `graph`."""
    body, prefix = node.attribute[0].g, f"{node.name or node.output[0]}/"
    shared = _adopted(body, prefix, graph)
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
