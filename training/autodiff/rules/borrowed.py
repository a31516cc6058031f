"""Linear operators whose rule is that of `onnx-ad`, an extra: candor[onnx-ad].

onnx-ad (PyPI, MIT) differentiates the node alone, for one row, because most of its rules need a
batch that is fixed. But it takes any number of seeds, along a last axis. A linear operator that
takes each row for itself has the same derivative for every row, so the rows of g are the seeds:

    g (N, …)  →  (1, …, N)  →  onnx-ad's nodes  →  (1, …, N)  →  gradient (N, …)

An operator that is not linear, or that mixes rows, cannot be borrowed so.
"""

import importlib
from typing import Any

from onnx import ModelProto, helper, numpy_helper

from training.autodiff.model import constants_of, prune
from training.autodiff.registry import Context, rule

LINEAR = ("Col2Im", "DFT")


@rule(*LINEAR)
def _borrowed(ctx: Context) -> dict[int, str]:
    """Gradient by onnx-ad: see the module's docstring. The other inputs must be constants."""
    graph, rank, first = ctx.graph, len(ctx.graph.shape(ctx.y)), ctx.graph.integers(0)
    last = graph.node("Transpose", ctx.gradient, perm=[*range(1, rank), 0])
    seeds = graph.node("Unsqueeze", last, first)
    found = graph.node("Squeeze", _adopted(ctx, _reversed(ctx), seeds), first)
    rank = len(graph.shape(ctx.x))
    return {0: graph.node("Transpose", found, perm=[rank - 1, *range(rank - 1)])}


def _reversed(ctx: Context) -> ModelProto:
    """The graph of onnx-ad: one row and its seeds → the gradient of x."""
    library = _library(ctx)
    try:
        model = library.reverse(_alone(ctx), inputs=[ctx.x], outputs=[ctx.y], layout="onnx")
    except library.UnsupportedOperator as error:
        raise ctx.unsupported(f"onnx-ad has no rule for it in this form ({error})") from None
    made: ModelProto = model
    del made.graph.output[:-1]  # those of the forward pass
    prune(made)
    return made


def _library(ctx: Context) -> Any:
    try:
        return importlib.import_module("onnx_ad")
    except ImportError:
        raise ctx.unsupported("its rule is that of onnx-ad: install candor[onnx-ad]") from None


def _alone(ctx: Context) -> ModelProto:
    """The node as a model of one row."""
    graph, node = ctx.graph, ctx.node
    values = {name: ctx.constant_input(place) for place, name in enumerate(node.input) if place}
    weights = [
        numpy_helper.from_array(value, name) for name, value in values.items() if value is not None
    ]
    ends = []
    for name in (ctx.x, ctx.y):
        graph.size(name, range(1, len(graph.shape(name))))  # an error where a size is free
        row = [1, *graph.shape(name)[1:]]
        ends.append(helper.make_tensor_value_info(name, graph.dtype(ctx.x), row))
    return helper.make_model(
        helper.make_graph([node], "row", ends[:1], ends[1:], weights),
        opset_imports=[helper.make_opsetid("", graph.opset)],
    )


def _adopted(ctx: Context, model: ModelProto, seeds: str) -> str:
    """Appends the nodes of `model`, for `seeds`, and returns its output."""
    graph = ctx.graph
    ends = [graph.integers(end) for end in (0, 1, 0)]  # the first row alone
    names = {"": "", ctx.x: graph.node("Slice", ctx.x, *ends)}
    names[next(info.name for info in model.graph.input if info.name != ctx.x)] = seeds
    for name, tensor in constants_of(model).items():
        names[name] = graph.constant(numpy_helper.to_array(tensor))
    for node in model.graph.node:
        if node.op_type != "Constant":
            inputs = (names[name] for name in node.input)
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            made = graph.nodes(node.op_type, *inputs, outputs=len(node.output), **attributes)
            names |= zip(node.output, made, strict=True)
    return names[model.graph.output[0].name]
