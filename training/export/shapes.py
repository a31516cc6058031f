"""Shapes of a foreign graph, found by running it, and the shape arithmetic that they replace.

Exporters compute shapes in the graph, each in its own way: Where over Equal, int32 casts, an If on
a dimension. No static inference follows all of them. ONNX Runtime does: it runs the graph with two
and with three rows (images), and whatever differs depends on the batch.

    a tensor of shapes, equal for both      becomes a constant
    one that grows with the rows            becomes slope · rows + offset
    the target of a Reshape                 becomes constants, with −1 for the batch
    a Slice that keeps all rows             leaves them alone
    an If on a constant                     becomes its branch

Values of images and weights are not touched. A file made for a fixed number of rows is freed: by
the shapes that it has with its own number, and by expanding to the batch what is baked into it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir
from onnxscript.optimizer import fold_constants

from training.autodiff import prune, with_shapes
from training.autodiff.model import constants_of, inputs_of
from training.export.ends import ForeignError
from training.export.faults import FREE_BATCH, worded
from training.export.loops import unroll, unroll_scans
from training.export.original import session_of
from training.export.sequences import take_apart

ONE, FEW, MORE = 1, 2, 3  # rows of a run
SMALL = 4096  # elements of a tensor that is folded: shapes are small, weights are not
ROUNDS = 8  # of resolving an If, behind which others may lie
OURS = "rows/"  # begins the names of tensors and nodes that are added here
COUNT = f"{OURS}count"  # int64 (1,), the number of rows
# Float32 sums in another order for another batch. An answer may differ by this part of the
# differences between images, which are small where a network hardly looks at them, and of itself.
OF_SPREAD, OF_LARGEST = 1e-2, 1e-5
# Their outputs are lists of tensors, which have no shape.
LISTS = {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SplitToSequence"}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"}
SHAPES_ONLY = {"Shape", "Size"}  # read no values
# Shape arithmetic begins at these. The folder of onnxscript leaves ConstantOfShape as it is.
SOURCES = {*SHAPES_ONLY, "ConstantOfShape", "Range"}
MOVING = {"Expand", "Reshape", "Slice"}

Shape = tuple[int, ...]
Images = Float32[np.ndarray, "rows dim1 dim2 dim3"]
Logits = Float32[np.ndarray, "..."]


@dataclass(frozen=True)
class Seen:
    """A run with some number of rows: shapes by tensor, values of tensors computed from shapes."""

    rows: int
    shapes: dict[str, Shape]
    values: dict[str, np.ndarray]


def settled(model: ModelProto, image: str, batch: int | None, output: str) -> ModelProto:
    """A copy of `model` down to `output` that takes any number of rows, without shape arithmetic.

    Its value_info has the shape of every tensor; a dimension without a size grows with the rows.
    `image` names the float32 input, whose shape is known but for the rows; the file takes `batch`
    rows, or any number if that is None.

    Raises:
        ForeignError: ONNX Runtime cannot run the graph, or what the graph gives for an image
            depends on the images beside it.
    """
    model = _down_to(model, image, output)
    rows = batch or MORE
    parts = np.split(_drawn(model, image, rows * -(-MORE // rows)), -(-MORE // rows))
    expected = np.concatenate([_answers(model, image, output, part) for part in parts])
    if batch is not None:
        _count_rows(model, image)
        _free(model, image, _run(model, image, batch))
    for _ in range(ROUNDS):
        if COUNT not in _tensors(model):  # pruned, but what was folded may ask for it
            _count_rows(model, image)
        few, more = (_run(model, image, rows) for rows in (FEW, MORE))
        _freeze(model, few, more)
        _rewrite(model, few, more)
        sizes = {name: _fixed(*pair) for name, pair in _pairs(few, more)}
        take_apart(model, sizes)
        unroll_scans(model, sizes)
        prune(model)
        model = folded(model)
        unroll(model)  # a number of rounds may have been a size
        # Nodes of a branch that replaced its If, for example, have not been seen yet.
        if all(name in few.shapes or name.startswith(OURS) for name in _tensors(model)):
            break
    _name_shapes(model, few, more)
    for count in (ONE, MORE):
        answers = _answers(model, image, output, _drawn(model, image, count))
        check_rows(answers, expected, count, rows)
    return model


def folded(model: ModelProto) -> ModelProto:
    """The model with its arithmetic over small constants computed."""
    graph = ir.from_proto(model)
    limits = {"input_size_limit": SMALL, "output_size_limit": SMALL}
    fold_constants(graph, onnx_shape_inference=True, **limits)
    return ir.to_proto(graph)


def _down_to(model: ModelProto, image: str, output: str) -> ModelProto:
    """A copy that computes `output` from `image` alone, without shapes that the exporter noted.

    Raises:
        ForeignError: `output` needs another input, too.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    inputs = list(graph.input)
    del graph.output[:], graph.value_info[:], graph.input[:]
    graph.input.extend(info for info in inputs if info.name == image)
    graph.output.add(name=output)
    prune(copy)
    read = {name for node in graph.node for name in inputs_of(node)}
    known = {image, *(tensor.name for tensor in graph.initializer)}
    others = [info.name for info in inputs if info.name in read - known]
    if others:
        raise ForeignError(
            f"{output} needs the input {', '.join(others)} beside {image}: "
            "export the network with the image as its only input, or name another --output"
        )
    return copy


def _answers(model: ModelProto, image: str, output: str, drawn: Images) -> Logits:
    """The `output` for drawn images."""
    session = session_of(model.SerializeToString())
    with worded(
        f"ONNX Runtime cannot run the graph with an input {image} {drawn.shape}",
        f"correct --size, or {FREE_BATCH}",
    ):
        (answer,) = session.run([output], {image: drawn})
    return np.array(answer)  # a copy, so that the memory of the session goes


def _drawn(model: ModelProto, image: str, rows: int) -> Images:
    """Drawn images, the same first ones for every number of rows."""
    (info,) = (info for info in model.graph.input if info.name == image)
    shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim][1:]
    drawn = np.random.default_rng(0).standard_normal((MORE, *shape), np.float32)
    return np.resize(drawn, (rows, *shape))


def _tensors(model: ModelProto) -> list[str]:
    """The tensors that nodes compute, lists of tensors left out."""
    lists, found = set[str](), list[str]()
    for node in model.graph.node:
        is_alias = node.op_type == "Identity" and node.input[0] in lists
        if node.op_type in LISTS or is_alias:
            lists.update(node.output)
        else:
            found.extend(name for name in node.output if name)
    return found


def _run(model: ModelProto, image: str, rows: int) -> Seen:
    """The shapes of all tensors of `model`, and the values of those computed from shapes alone."""
    tensors, nodes = _tensors(model), model.graph.node
    sources = {name for node in nodes if node.op_type in SOURCES for name in node.output}
    fixed = _computed_from(nodes, sources) - _depending(nodes, image)
    probe = ModelProto()
    probe.CopyFrom(model)
    # A shape is asked for in the graph: its tensor need not be kept in memory until the end.
    asked = {name: f"{OURS}shape/{name}" for name in tensors if name not in fixed}
    probe.graph.node.extend(helper.make_node("Shape", [name], [asked[name]]) for name in asked)
    del probe.graph.output[:]
    for name in tensors:
        probe.graph.output.add(name=asked.get(name, name))
    content, drawn = probe.SerializeToString(), _drawn(model, image, rows)
    del probe  # a third copy of the weights beside the model's and the session's
    session = session_of(content)
    with worded(f"ONNX Runtime cannot run the graph with {rows} images", FREE_BATCH):
        answers = dict(zip(tensors, session.run(None, {image: drawn}), strict=True))
    shapes = {image: drawn.shape} | {t.name: tuple(t.dims) for t in model.graph.initializer}
    for name, answer in answers.items():
        shapes[name] = tuple(map(int, answer)) if name in asked else np.shape(answer)
    # Copies: an answer of ONNX Runtime keeps all memory of its session, the weights included.
    return Seen(rows, shapes, {name: np.array(answers[name]) for name in fixed & answers.keys()})


def _depending(nodes: Iterable[NodeProto], image: str) -> set[str]:
    """The tensors that depend on the values of `image`, or on chance."""
    nodes = list(nodes)
    chance = {name for node in nodes if node.op_type in RANDOM for name in node.output}
    values = [node for node in nodes if node.op_type not in SHAPES_ONLY]
    return _computed_from(values, {image, *chance})


def _computed_from(nodes: Iterable[NodeProto], sources: Iterable[str]) -> set[str]:
    """`sources`, and the tensors that read one of them, directly or not."""
    found = set(sources)
    for node in nodes:
        if inputs_of(node) & found:
            found.update(name for name in node.output if name)
    return found


def _count_rows(model: ModelProto, image: str) -> None:
    """Puts nodes that compute COUNT in front, in place."""
    count = [
        _node("Shape", [image], f"{OURS}image"),
        _node("Gather", [f"{OURS}image", _constant(model, "first", np.zeros(1, np.int64))], COUNT),
    ]
    _set_nodes(model, [*count, *model.graph.node])


def _freeze(model: ModelProto, few: Seen, more: Seen) -> None:
    """Makes tensors computed from shapes, in place, constants or lines over the number of rows."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        is_open = not node.name.startswith(OURS)
        for index, name in enumerate(node.output):
            if is_open and name in few.values and _is_line(few.values[name], more.values[name]):
                node.output[index] = f"{OURS}unused/{name}"
                nodes.extend(_line(model, name, few.values[name], more.values[name]))
        nodes.append(node)
    _set_nodes(model, nodes)


def _is_line(few: np.ndarray, more: np.ndarray) -> bool:
    """True for a small tensor that is constant, or whose integers may grow with the rows."""
    same_kind = few.shape == more.shape and few.size <= SMALL and few.dtype.kind in "biuf"
    return same_kind and (few.dtype in (np.int32, np.int64) or _equal(few, more))


def _equal(few: np.ndarray, more: np.ndarray) -> bool:
    return np.array_equal(few, more, equal_nan=few.dtype.kind == "f")


def _line(model: ModelProto, name: str, few: np.ndarray, more: np.ndarray) -> Iterator[NodeProto]:
    """The nodes that compute the tensor `name`; none for a constant, which `model` gets."""
    if _equal(few, more):
        model.graph.initializer.append(numpy_helper.from_array(few, name))
        return
    count, grown, slope = COUNT, f"{OURS}grown/{name}", np.asarray((more - few) // (MORE - FEW))
    if few.ndim == 0:
        yield _node("Squeeze", [count], f"{OURS}scalar/{name}")
        count = f"{OURS}scalar/{name}"
    yield _node(
        "Cast",
        [count],
        f"{OURS}cast/{name}",
        to=helper.np_dtype_to_tensor_dtype(few.dtype),
    )
    yield _node("Mul", [f"{OURS}cast/{name}", _constant(model, f"slope/{name}", slope)], grown)
    offset = np.asarray(few - FEW * slope)
    yield _node("Add", [grown, _constant(model, f"offset/{name}", offset)], name)


def _rewrite(model: ModelProto, few: Seen, more: Seen) -> None:
    """Gives operators that move elements, in place, constants instead of shape arithmetic."""
    constants = constants_of(model)
    for node in model.graph.node:
        if node.op_type not in MOVING or not {node.input[0], node.output[0]} <= few.shapes.keys():
            continue
        if node.op_type == "Reshape" and node.input[1] not in constants:
            _rewrite_reshape(model, node, few, more)
        elif node.op_type == "Expand" and _keeps_shape(node, few, more):
            _make_identity(node)
        elif node.op_type == "Slice" and not all(n in constants for n in node.input[1:] if n):
            _rewrite_slice(model, node, few, more)


def _rewrite_reshape(model: ModelProto, node: NodeProto, few: Seen, more: Seen) -> None:
    name = node.output[0]
    pairs = zip(few.shapes[name], more.shapes[name], strict=True)
    target = [size if size == other else -1 for size, other in pairs]
    if target.count(-1) <= 1 and 0 not in target:
        node.input[1] = _constant(model, f"target/{name}", np.array(target, np.int64))
        del node.attribute[:]


def _pairs(few: Seen, more: Seen) -> Iterator[tuple[str, tuple[Shape, Shape]]]:
    return ((n, (shape, more.shapes[n])) for n, shape in few.shapes.items() if n in more.shapes)


def _fixed(few: Shape, more: Shape) -> Shape:
    """The sizes that do not grow with the rows; 0 for those that do."""
    return tuple(size if size == other else 0 for size, other in zip(few, more, strict=True))


def _keeps_shape(node: NodeProto, *runs: Seen) -> bool:
    return all(seen.shapes[node.input[0]] == seen.shapes[node.output[0]] for seen in runs)


def _make_identity(node: NodeProto) -> None:
    node.op_type = "Identity"
    del node.input[1:], node.attribute[:]


def _rewrite_slice(model: ModelProto, node: NodeProto, few: Seen, more: Seen) -> None:
    """Leaves the axes alone that a slice keeps whole."""
    bounds, others = (_bounds(model, node, seen) for seen in (few, more))
    if bounds is None or others is None:
        return
    kept = [
        index
        for index, (axis, step) in enumerate(zip(bounds[2], bounds[3], strict=True))
        if step != 1 or not _keeps_axis(node, int(axis), few, more)
    ]
    if not kept:
        _make_identity(node)
    elif np.array_equal(bounds[:, kept], others[:, kept]):
        names = ("starts", "ends", "axes", "steps")
        del node.input[1:]
        for name, value in zip(names, bounds[:, kept], strict=True):
            node.input.append(_constant(model, f"{name}/{node.output[0]}", value))


def _bounds(model: ModelProto, node: NodeProto, seen: Seen) -> np.ndarray | None:
    """Starts, ends, axes and steps of a slice as rows of int64; None if one is not known."""
    known = {n: numpy_helper.to_array(t) for n, t in constants_of(model).items() if n in node.input}
    known |= seen.values
    names = [*node.input[1:], "", ""][:4]
    if not all(name in known for name in names if name):
        return None
    starts, ends = known[names[0]], known[names[1]]
    axes = known[names[2]] if names[2] else np.arange(len(starts))
    steps = known[names[3]] if names[3] else np.ones(len(starts))
    axes = axes % len(seen.shapes[node.input[0]])
    return np.stack([starts, ends, axes, steps]).astype(np.int64)


def _keeps_axis(node: NodeProto, axis: int, *runs: Seen) -> bool:
    before, after = node.input[0], node.output[0]
    return all(seen.shapes[before][axis] == seen.shapes[after][axis] for seen in runs)


def _free(model: ModelProto, image: str, seen: Seen) -> None:
    """Frees, in place, the rows of a graph that is made for as many as were `seen`.

    The batch is taken to be the first dimension wherever shapes are constants.
    """
    nodes: list[NodeProto] = []
    depending = _depending(model.graph.node, image)
    for node in model.graph.node:
        if node.op_type in ("Reshape", "Expand") and node.input[0] in depending:
            _free_target(model, node, seen)
        if node.op_type == "Concat" and node.output[0] in depending and _axis(node, seen) > 0:
            for index, name in enumerate(node.input):
                if name not in depending and seen.shapes[name][0] == seen.rows:
                    nodes.extend(_repeated(model, name, f"{node.output[0]}/{index}", seen))
                    node.input[index] = nodes[-1].output[0]
        nodes.append(node)
    _set_nodes(model, nodes)
    (info,) = model.graph.input
    info.type.tensor_type.shape.dim[0].dim_param = "N"


def _free_target(model: ModelProto, node: NodeProto, seen: Seen) -> None:
    before, after = seen.shapes[node.input[0]], seen.shapes[node.output[0]]
    if not after or 0 in after:
        return
    # A 0 in a Reshape, or a 1 in an Expand, is "the same size as before".
    same = 0 if node.op_type == "Reshape" else 1
    if before[:1] == after[:1]:
        target = [same, *after[1:]]
    elif node.op_type == "Reshape":
        target = [-1, *after[1:]]
    else:
        return
    node.input[1] = _constant(model, f"free/{node.output[0]}", np.array(target, np.int64))
    del node.attribute[:]


def _axis(node: NodeProto, seen: Seen) -> int:
    (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
    return int(axis) % len(seen.shapes[node.output[0]])


def _repeated(model: ModelProto, name: str, place: str, seen: Seen) -> Iterator[NodeProto]:
    """The nodes that repeat the first row of a constant for every row of the batch."""
    first, target = f"{OURS}row/{place}", f"{OURS}sizes/{place}"
    ones = np.ones(len(seen.shapes[name]) - 1, np.int64)
    zero = _constant(model, f"zero/{place}", np.zeros(1, np.int64))
    yield _node("Gather", [name, zero], first)
    yield _node("Concat", [COUNT, _constant(model, f"ones/{place}", ones)], target, axis=0)
    yield _node("Expand", [first, target], f"{OURS}rows/{place}")


def _name_shapes(model: ModelProto, few: Seen, more: Seen) -> None:
    """Notes in value_info, in place, the shapes that were seen."""
    inferred = with_shapes(model).graph
    types = {i.name: i.type.tensor_type.elem_type for i in (*inferred.value_info, *inferred.output)}
    del model.graph.value_info[:]
    for name in _tensors(model):
        if name in few.shapes:
            sizes = [_size(*pair) for pair in zip(few.shapes[name], more.shapes[name], strict=True)]
            # onnx infers the type of every tensor but those of other domains, where it is float32.
            kind = types.get(name) or TensorProto.FLOAT
            model.graph.value_info.append(helper.make_tensor_value_info(name, kind, sizes))


def _size(few: int, more: int) -> int | str | None:
    if few == more:
        return few
    return "N" if (few, more) == (FEW, MORE) else None


def check_rows(answers: Logits, expected: Logits, batch: int, other: int) -> None:
    """Compares answers to the same first images in a `batch` with those in one of `other` size.

    Raises:
        ForeignError: they differ.
    """
    rows = min(len(answers), len(expected))
    spread, largest = float(np.ptp(expected, axis=0).max()), float(np.abs(expected).max())
    limit = OF_SPREAD * spread + OF_LARGEST * largest
    difference = float(np.abs(answers[:rows] - expected[:rows]).max())
    if not difference <= limit:  # not ">", which is false for NaN
        raise ForeignError(
            f"an image gets another answer in a batch of {batch} than in one of {other} "
            f"(by {difference:.1e}, limit {limit:.1e}): {FREE_BATCH}, after network.eval()"
        )


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """A node whose name shows that it was added here."""
    name = output if output.startswith(OURS) else OURS + output
    return helper.make_node(operator, inputs, [output], name, **attributes)


def _constant(model: ModelProto, name: str, value: np.ndarray) -> str:
    """Adds an initialiser and returns its name."""
    tensor: TensorProto = numpy_helper.from_array(value, OURS + name)
    model.graph.initializer.append(tensor)
    return str(tensor.name)


def _set_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
