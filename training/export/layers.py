"""The layer that a class activation map weighs: the last one that still has pixels.

    convolutions       the last tensor (N, C, h, w) behind the last convolution
    tokens (N, T, D)   the last layer norm with patch tokens that the logits depend on: in the last
                       block of a network with a class token, the norm before the attention,
                       because behind it only the class token counts
    channels last      the same for a layer norm over (N, h, w, D)

Tokens take the form (N, D, h, w) and back inside the graph, which moves values and changes none.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from jaxtyping import Float32
from onnx import ModelProto, NodeProto, helper, numpy_helper

from training.autodiff import DifferentiationError, gradients_of
from training.export.ends import Dims

IMAGE_RANK, TOKENS_RANK = 4, 3
LATE = 0.1  # a last convolution in the first tenth of the nodes (a patch embedding) is not late
PREFIXES = (0, 1, 2, 5)  # class tokens: none, one, one with distillation, one with four registers
MOST_CANDIDATES = 24  # layer norms that are tried, from the last one on
# fmt: off
POINTWISE = {
    "Add", "BatchNormalization", "Celu", "Clip", "Concat", "Div", "Dropout", "Elu", "Erf", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Mish", "Mul",
    "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Sub", "Sum", "Tanh", "Transpose",
}
# fmt: on

Shapes = Mapping[str, Dims]


class Grid(NamedTuple):
    """The places of the pixels in `tensor`: behind `prefix` tokens, `height` × `width`.

    `prefix` is None for (N, h, w, D), which has no tokens.
    """

    tensor: str
    prefix: int | None
    height: int
    width: int
    channels: int


def find(model: ModelProto, shapes: Shapes) -> str | None:
    """The tensor (N, C, h, w) to weigh, for tokens a new one in `model`; None if there is none."""
    convolved = last_with_pixels(model, shapes)
    if convolved is not None:
        return convolved
    grids = [
        grid
        for grid in (grid_of(name, shapes) for name in _normalised(model, shapes))
        if grid is not None
    ]
    chosen = _last_that_counts(model, grids[-MOST_CANDIDATES:], shapes)
    return None if chosen is None else _insert(model, chosen)


def named(model: ModelProto, name: str, shapes: Shapes) -> str | None:
    """The tensor (N, C, h, w) of the tensor `name`, tokens included; None if it has no pixels."""
    if name not in shapes or name == "x":
        return None
    is_norm = any(
        node.op_type == "LayerNormalization" and name in node.output for node in model.graph.node
    )
    if len(shapes[name]) == IMAGE_RANK and not is_norm:
        return name
    grid = grid_of(name, shapes)
    return None if grid is None else _insert(model, grid)


def grid_of(name: str, shapes: Shapes) -> Grid | None:
    """The grid of a tensor (N, T, D) or (N, h, w, D), in the proportions of the image, or None."""
    shape, (_, _, height, width) = shapes[name], shapes["x"]
    if len(shape) < TOKENS_RANK or None in shape[1:] or not height or not width:
        return None
    sizes = [size or 0 for size in shape[1:]]
    if len(sizes) == IMAGE_RANK - 1:
        rows, columns, channels = sizes
        return Grid(name, None, rows, columns, channels) if min(rows, columns) > 1 else None
    tokens, channels = sizes
    for prefix in PREFIXES:
        rows = round((max(0, tokens - prefix) * height / width) ** 0.5)
        if rows > 1 and (tokens - prefix) * height == rows * rows * width:
            return Grid(name, prefix, rows, (tokens - prefix) // rows, channels)
    return None


def last_with_pixels(model: ModelProto, shapes: Shapes) -> str | None:
    """The last tensor (N, C, h, w), h and w > 1, behind the last such convolution.

    Only pointwise operators lie between them. None if there is no such convolution, or if it is
    not late in the network.
    """
    nodes = list(model.graph.node)
    places = [
        index
        for index, node in enumerate(nodes)
        if node.op_type == "Conv" and _pixels(shapes, node.output[0])
    ]
    if not places or places[-1] < LATE * len(nodes):
        return None
    last = str(nodes[places[-1]].output[0])
    reached, pixels = {last}, _pixels(shapes, last)
    for node in nodes[places[-1] + 1 :]:
        is_pointwise = node.op_type in POINTWISE and reached.intersection(node.input)
        if is_pointwise and _pixels(shapes, node.output[0]) == pixels:
            last = str(node.output[0])
            reached.add(last)
    return last


def _pixels(shapes: Shapes, name: str) -> Dims:
    """Height and width of a tensor (N, C, h, w) with several pixels each way; else nothing."""
    shape = shapes.get(name, [])
    if len(shape) != IMAGE_RANK or (shape[2] or 0) <= 1 or (shape[3] or 0) <= 1:
        return []
    return shape[2:]


def _normalised(model: ModelProto, shapes: Shapes) -> Iterator[str]:
    """The outputs of layer norms, in the order of the graph, spelled out or not."""
    vectors = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 1}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        name = str(node.output[0])
        if len(shapes.get(name, [])) not in (TOKENS_RANK, IMAGE_RANK):
            continue
        if node.op_type == "LayerNormalization" or _is_spelled_out(node, makers, vectors):
            yield name


def _is_spelled_out(node: NodeProto, makers: Mapping[str, NodeProto], vectors: set[str]) -> bool:
    """True for … · weight + bias, the end of a layer norm before opset 17."""

    def behind(node: NodeProto | None, operator: str) -> NodeProto | None:
        """The maker of the other operand of a sum or product with a vector."""
        if node is None or node.op_type != operator or not vectors.intersection(node.input):
            return None
        others = [makers.get(name) for name in node.input if name not in vectors]
        return others[0] if others else None

    quotient = behind(behind(node, "Add"), "Mul")
    return quotient is not None and quotient.op_type == "Div"


def _last_that_counts(model: ModelProto, grids: list[Grid], shapes: Shapes) -> Grid | None:
    """The last grid with a gradient at its pixels, measured on drawn images."""
    if not grids:
        return None
    try:
        graph = gradients_of(model, [grid.tensor for grid in grids])
    except DifferentiationError:
        return None  # the bundle has no gradients at all, or says so itself
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *(size or 1 for size in shapes["x"][1:]))).astype(np.float32)
    gradients = session.run(None, {"x": x, "target": np.full(2, -1)})
    for grid, gradient in zip(reversed(grids), reversed(gradients), strict=True):
        if np.abs(_at_pixels(grid, gradient)).max() > 0:
            return grid
    return None


def _at_pixels(grid: Grid, values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return values if grid.prefix is None else values[:, grid.prefix :]


def _insert(model: ModelProto, grid: Grid) -> str:
    """Puts the pixels of `grid`, (N, C, h, w), between its tensor and those that read it."""
    before, name = f"layer/{grid.tensor}", f"layer/{grid.tensor}/pixels"
    place = _rename_output(model, grid.tensor, before)
    to, back = ([0, 3, 1, 2], [0, 2, 3, 1]) if grid.prefix is None else ([0, 2, 1], [0, 2, 1])
    if grid.prefix is None:
        nodes = [
            helper.make_node("Transpose", [before], [name], perm=to),
            helper.make_node("Transpose", [name], [grid.tensor], perm=back),
        ]
    else:
        nodes = _tokens_and_back(model, grid, before, name)
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + 1 + offset, node)
    return name


def _tokens_and_back(model: ModelProto, grid: Grid, before: str, name: str) -> list[NodeProto]:
    count = grid.height * grid.width

    def constant(part: str, *values: int) -> str:
        tensor = numpy_helper.from_array(np.array(values, np.int64), f"{before}/{part}")
        model.graph.initializer.append(tensor)
        return tensor.name

    patches, rows, flat = (f"{before}/{part}" for part in ("patches", "rows", "flat"))
    to_grid = constant("to grid", 0, grid.channels, grid.height, grid.width)
    to_row = constant("to row", 0, grid.channels, count)
    if not grid.prefix:
        return [
            helper.make_node("Transpose", [before], [rows], perm=[0, 2, 1]),
            helper.make_node("Reshape", [rows, to_grid], [name]),
            helper.make_node("Reshape", [name, to_row], [flat]),
            helper.make_node("Transpose", [flat], [grid.tensor], perm=[0, 2, 1]),
        ]
    prefix, tokens = f"{before}/prefix", f"{before}/tokens"
    sizes = constant("sizes", grid.prefix, count)
    return [
        helper.make_node("Split", [before, sizes], [prefix, patches], axis=1),
        helper.make_node("Transpose", [patches], [rows], perm=[0, 2, 1]),
        helper.make_node("Reshape", [rows, to_grid], [name]),
        helper.make_node("Reshape", [name, to_row], [flat]),
        helper.make_node("Transpose", [flat], [tokens], perm=[0, 2, 1]),
        helper.make_node("Concat", [prefix, tokens], [grid.tensor], axis=1),
    ]


def _rename_output(model: ModelProto, old: str, new: str) -> int:
    """Renames `old` at the node that makes it, and gives the place of that node."""
    for place, node in enumerate(model.graph.node):
        for index, name in enumerate(node.output):
            if name == old:
                node.output[index] = new
                return place
    raise AssertionError(f"no node makes {old}")
