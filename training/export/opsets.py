"""Operators of a file, written as those that can be differentiated, in an opset from 13 to 21.

`plain` does, in this order:

    local functions              inlined
    an older opset               converted to 13; to 18 where an operator below needs that
    integer arithmetic           QOperator becomes QDQ (training.export.integers)
    com.microsoft                expanded (training.export.microsoft)
    functions of ONNX            those of `INLINED` replaced by their definitions in the standard
    a newer opset                named 21: what is left means the same there
    Loop                         unrolled (training.export.loops)

The answers of the file stay, but for the rounding of operators that are spelled out.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    defs,
    helper,
    inliner,
    numpy_helper,
    version_converter,
)

from training.autodiff import NEWEST_OPSET, OLDEST_OPSET, constants_of, opset_of, with_shapes
from training.export import integers, loops, microsoft
from training.export.ends import ForeignError

# Their definitions are made of operators that have rules, or that are folded. The standard defines
# more operators in this way, which have a rule of their own.
# fmt: off
INLINED = (
    "Attention", "CenterCropPad", "MeanVarianceNormalization", "RMSNormalization",
    "ReduceLogSum", "RotaryEmbedding", "Shrink", "SwiGLU", "Swish",
)
# fmt: on
CAST_LIKE = ("CastLike",)  # in definitions, too; its own asks for types that they do not state
SCATTERING = {"GatherElements", "GatherND", "GridSample"}  # their gradients add at indices
ADDING_OPSET = 18  # the opset in which ScatterElements adds, in every version of ONNX Runtime


def plain(model: ModelProto) -> ModelProto:
    """The model in operators and in an opset that can be differentiated, if that is possible.

    Raises:
        ForeignError: the opset cannot be converted, or a node computes as in training.
    """
    model = inliner.inline_local_functions(model) if model.functions else _copy(model)
    _check_inference(model)
    fused = microsoft.adopt(model, opset_of(model))
    model = _raised(model, microsoft.OPSET if fused else OLDEST_OPSET)
    if any(node.op_type in SCATTERING for node in model.graph.node):
        # Predictions do without; the gradient's error will name the operator.
        with suppress(ForeignError):
            model = _raised(model, ADDING_OPSET)
    model = integers.expanded(model)
    if fused:
        model = microsoft.expanded(model)
    for names in (INLINED, CAST_LIKE):
        model = _without_functions(model, names)
    _free_grids(model)
    _lower(model)
    loops.unroll(model)
    return model


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _check_inference(model: ModelProto) -> None:
    constants = constants_of(model)
    seen = {info.name for info in model.graph.input} - constants.keys()  # depends on the image
    for node in model.graph.node:
        if seen.isdisjoint(node.input):
            continue  # networks without normalisation standardise their weights so
        seen.update(node.output)
        is_norm = node.op_type == "BatchNormalization"
        flags = [a.i for a in node.attribute if a.name == "training_mode" and is_norm]
        if node.op_type == "Dropout" and node.input[2:] and node.input[2] in constants:
            flags.append(int(numpy_helper.to_array(constants[node.input[2]])))
        if node.op_type == "DynamicQuantizeLinear":
            raise ForeignError(
                f"{node.op_type} (node {node.name or node.output[0]}) rounds an image by what lies "
                "beside it in a batch: give the file as it was before its quantisation; python -m "
                "training quantise makes int8 of a bundle"
            )
        if any(flags):
            raise ForeignError(
                f"{node.op_type} (node {node.name or node.output[0]}) is in training mode: call "
                "eval() on the network and export it again"
            )


def _raised(model: ModelProto, opset: int) -> ModelProto:
    if opset_of(model) >= opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # noqa: BLE001 - the converter raises RuntimeError and more
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        raise ForeignError(
            f"the graph has opset {opset_of(model)}, which cannot be converted to {opset} "
            f"({reason}): export it in an opset from {opset} to {NEWEST_OPSET}"
        ) from None


def _without_functions(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with the operators `names` replaced by their definitions."""
    if not any(node.op_type in names and not node.domain for node in model.graph.node):
        return model
    typed = with_shapes(model)
    for node in typed.graph.node:
        if node.op_type in names and not node.domain:
            schema = defs.get_schema(node.op_type, opset_of(model), "")
            defaults = (attribute.default_value for attribute in schema.attributes.values())
            node.CopyFrom(
                microsoft.with_defaults(node, (value for value in defaults if value.type))
            )
    known = {info.name for info in (*typed.graph.value_info, *typed.graph.input)}
    # Definitions depend on the types of the inputs, those of weights included.
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in typed.graph.initializer
        if tensor.name not in known
    )
    ids = [("", name) for name in names]
    try:
        result = inliner.inline_selected_functions(typed, ids, inline_schema_functions=True)
    except RuntimeError:  # a type that cannot be inferred: what comes later names the operator
        return model
    del result.graph.value_info[:]
    return result


def _free_grids(model: ModelProto) -> None:
    """Makes each AffineGrid, in place, one of as many images as it has matrices."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "AffineGrid":
            theta, sizes = node.input
            rows, rest, freed = (f"{node.output[0]}/{part}" for part in ("rows", "rest", "sizes"))
            first, last = (f"{node.output[0]}/{part}" for part in ("first", "last"))
            model.graph.node.extend(
                [
                    helper.make_node("Constant", [], [first], value_ints=[1]),
                    helper.make_node("Constant", [], [last], value_ints=[5]),
                    helper.make_node("Slice", [sizes, first, last], [rest]),
                    helper.make_node("Shape", [theta], [rows], end=1),
                    helper.make_node("Concat", [rows, rest], [freed], axis=0),
                ]
            )
            node.input[1] = freed
        model.graph.node.append(node)


def _lower(model: ModelProto) -> None:
    """Gives a model of a newer opset the newest that can be differentiated, in place.

    Operators that changed since then take more types, or have an attribute more, which must be
    at its default.
    """
    opset = opset_of(model)
    if opset <= NEWEST_OPSET:
        return
    for node in _all_nodes(model.graph):
        if node.domain in ("", "ai.onnx"):
            _lower_node(node, opset)
    for entry in model.opset_import:
        entry.version = NEWEST_OPSET if entry.domain in ("", "ai.onnx") else entry.version


def _lower_node(node: NodeProto, opset: int) -> None:
    refusal = ForeignError(
        f"{node.op_type} (node {node.name or node.output[0]}) of opset {opset} cannot be written "
        f"in opset {NEWEST_OPSET}: export the network in opset {NEWEST_OPSET}"
    )
    try:
        newer, older = (
            defs.get_schema(node.op_type, version, "") for version in (opset, NEWEST_OPSET)
        )
    except defs.SchemaError:
        raise refusal from None
    added = [entry for entry in node.attribute if entry.name not in older.attributes]
    for entry in added:
        default = newer.attributes[entry.name].default_value
        if helper.get_attribute_value(entry) != helper.get_attribute_value(default):
            raise refusal
        node.attribute.remove(entry)


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in _graphs(node):
            yield from _all_nodes(inner)


def _graphs(node: NodeProto) -> list[GraphProto]:
    return [entry.g for entry in node.attribute if entry.type == AttributeProto.GRAPH]
