"""The layers for class activation maps: the last one that still has pixels, and earlier ones.

    convolutions       the last tensor (N, C, h, w) behind the last convolution, or (N, h, w, C), as
                       in files of TensorFlow: transposes tell which of the two it is
    tokens (N, T, D)   the last layer norm with patch tokens that the logits depend on: in the last
                       block of a network with a class token, the norm before the attention,
                       because behind it only the class token counts
    channels last      the same for a layer norm over (N, h, w, D)

Up to two earlier layers have finer cells. All that reaches the last one passes through each of
them, behind the first convolution, and the logits depend on them:

    images, stages       the last tensor before the cells become fewer, and the same once more
    tokens of one grid   the tensors at two thirds and at one third of the way

Tokens and channels-last maps take the form (N, D, h, w) and back inside the graph, which moves
values and changes none.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from jaxtyping import Float32
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from training.autodiff import DifferentiationError, gradients_of, with_shapes
from training.autodiff.model import bottlenecks
from training.export.ends import Dims, dims_of

IMAGE_RANK, TOKENS_RANK, MATRIX_RANK = 4, 3, 2
LATE = 0.1  # a last convolution in the first tenth of the nodes (a patch embedding) is not late
PREFIXES = (0, 1, 2, 5)  # class tokens: none, one, one with distillation, one with four registers
MOST_EARLIER = 2
MOST_CANDIDATES = 24  # layer norms that are tried, from the last one on
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
# Operators whose images have their channels first by definition.
CHANNELS_FIRST = {
    *("Conv", "ConvTranspose", "AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"),
    *("DepthToSpace", "SpaceToDepth", "LRN", "InstanceNormalization", "GroupNormalization"),
}
BLURRING = {"AveragePool", "MaxPool", "Pad"}
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

    @property
    def cells(self) -> int:
        """The number of places."""
        return self.height * self.width


def find(model: ModelProto, shapes: Shapes) -> list[str]:
    """The tensors (N, C, h, w) to weigh, last first, for tokens new ones in `model`; [] if none."""
    turned = channels_last(model, shapes)
    convolved = last_with_pixels(model, shapes, turned)
    if convolved in turned:
        grid = grid_of(convolved, shapes)
        counting = [] if grid is None else _that_count(model, [grid], shapes)
        if counting:
            return _grid_with_earlier(model, counting[-1], shapes)
        convolved = last_with_pixels(model, shapes, frozenset())
    if convolved is not None:
        return with_earlier(model, convolved, shapes)
    norms = list(_normalised(model, shapes))
    if not norms:  # no transformer: an early convolution is better than no layer
        early = last_with_pixels(model, shapes, frozenset(), late=0.0)
        return [] if early is None else with_earlier(model, early, shapes)
    grids = [grid for grid in (grid_of(name, shapes) for name in norms) if grid is not None]
    counting = _that_count(model, grids[-MOST_CANDIDATES:], shapes)
    return _grid_with_earlier(model, counting[-1], shapes) if counting else []


def with_earlier(model: ModelProto, last: str, shapes: Shapes) -> list[str]:
    """The tensor `last` (N, C, h, w), and up to two earlier ones, each of finer cells."""
    _, channels, rows, columns = (size or 0 for size in shapes[last])
    return [last, *_earlier(model, Grid(last, None, rows, columns, channels), shapes)]


def _grid_with_earlier(model: ModelProto, last: Grid, shapes: Shapes) -> list[str]:
    """The same for tokens or channels last."""
    earlier = _earlier(model, last, shapes)
    return [_insert(model, last), *earlier]


def _earlier(model: ModelProto, last: Grid, shapes: Shapes) -> list[str]:
    first, turned = _layouts(model, shapes)
    passed = [
        grid
        for name in _passed(model, last.tensor)
        if (grid := _grid_or_image(name, shapes, first, turned)) is not None
    ]
    stages = list[Grid]()
    for grid in reversed(passed):
        if grid.cells > (stages[-1] if stages else last).cells:
            stages.append(grid)
    if not stages and last.prefix is not None and len(passed) > MOST_EARLIER:
        stages = [passed[2 * len(passed) // 3], passed[len(passed) // 3]]
    counting = _that_count(model, stages[:MOST_EARLIER], shapes)
    return [grid.tensor if grid.tensor in first else _insert(model, grid) for grid in counting]


def _grid_or_image(
    name: str, shapes: Shapes, first: frozenset[str], turned: frozenset[str]
) -> Grid | None:
    """The places of the pixels in a tensor of any form; None if it has no several each way."""
    if name in first:
        if not _pixels(shapes, name):
            return None
        _, channels, rows, columns = (size or 0 for size in shapes[name])
        return Grid(name, None, rows, columns, channels)
    is_known = len(shapes.get(name, [])) == TOKENS_RANK or name in turned
    return grid_of(name, shapes) if is_known else None


def _passed(model: ModelProto, last: str) -> Iterator[str]:
    """The tensors behind a convolution that all of `last` depends on x through, in order.

    Those that a pool or a pad makes are left out: they blur or move the cells of the one before.
    """
    nodes = list(model.graph.node)
    places = {name: place for place, node in enumerate(nodes) for name in node.output}
    start = next((place for place, node in enumerate(nodes) if node.op_type == "Conv"), len(nodes))
    for name in bottlenecks(model, "x", last):
        if places[name] >= start and nodes[places[name]].op_type not in BLURRING:
            yield name


def shapes_of(model: ModelProto, *, strict: bool = False) -> dict[str, Dims]:
    """The shapes of tensors with a row for each image, as far as they can be inferred.

    Raises:
        InferenceError: they contradict each other, if `strict`.
    """
    inferred = with_shapes(model, strict=strict).graph
    infos = (*inferred.value_info, *inferred.input, *inferred.output)
    others = {info.name for info in model.graph.value_info if _has_other_rows(info)}
    return {info.name: dims_of(info) for info in infos if info.name not in others}


def _has_other_rows(info: ValueInfoProto) -> bool:
    """True if a tensor has more rows than images, as an image beside its mirror image makes."""
    first = info.type.tensor_type.shape.dim[:1]
    return any(not (dim.dim_value or dim.dim_param) for dim in first)


def named(model: ModelProto, name: str, shapes: Shapes) -> str | None:
    """The tensor (N, C, h, w) of the tensor `name`, tokens included; None if it has no pixels."""
    if name not in shapes or name == "x":
        return None
    is_norm = any(
        node.op_type == "LayerNormalization" and name in node.output for node in model.graph.node
    )
    is_last = is_norm or name in channels_last(model, shapes)
    if len(shapes[name]) == IMAGE_RANK and not is_last:
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


def last_with_pixels(
    model: ModelProto, shapes: Shapes, turned: frozenset[str], late: float = LATE
) -> str | None:
    """The last tensor with pixels, h and w > 1, behind the last such convolution.

    It is (N, C, h, w), or (N, h, w, C) if it is one of `turned`. Only pointwise operators lie
    between them. None if there is no such convolution, or none behind the part `late` of the nodes.
    """
    nodes = list(model.graph.node)
    places = [
        index
        for index, node in enumerate(nodes)
        if node.op_type == "Conv" and _pixels(shapes, node.output[0])
    ]
    if not places or places[-1] < late * len(nodes):
        return None
    last = str(nodes[places[-1]].output[0])
    reached, pixels, weights = {last}, _pixels(shapes, last), _matrices(model)
    for node in nodes[places[-1] + 1 :]:
        is_pointwise = _is_pointwise(node, weights) and reached.intersection(node.input)
        name = str(node.output[0])
        if is_pointwise and _pixels(shapes, name, last=name in turned) == pixels:
            last = name
            reached.add(last)
    return last


def channels_last(model: ModelProto, shapes: Shapes) -> frozenset[str]:
    """The tensors (N, h, w, C): those behind a transpose of (N, C, h, w), until the next one."""
    return _layouts(model, shapes)[1]


def _layouts(model: ModelProto, shapes: Shapes) -> tuple[frozenset[str], frozenset[str]]:
    """The tensors (N, C, h, w), and those (N, h, w, C)."""
    weights = _matrices(model)
    first, last = {"x"}, set[str]()
    for node in model.graph.node:
        name, inputs = str(node.output[0]), set(node.input)
        if len(shapes.get(name, [])) != IMAGE_RANK:
            continue
        order = [list(each.ints) for each in node.attribute if each.name == "perm"]
        if node.op_type == "Transpose":
            if order == [TO_LAST] and inputs & first:
                last.add(name)
            elif order == [TO_FIRST]:
                first.add(name)
        elif node.op_type in CHANNELS_FIRST:
            first.add(name)
        elif _is_pointwise(node, weights) and inputs & last:
            last.add(name)
        elif inputs & first:
            first.add(name)
    return frozenset(first), frozenset(last)


def _is_pointwise(node: NodeProto, weights: set[str]) -> bool:
    """True if each pixel of the result depends on that pixel alone, of (N, h, w, C) as well."""
    if node.op_type == "MatMul":
        return node.input[1] in weights  # a 1 × 1 convolution, channels last
    return node.op_type in POINTWISE


def _matrices(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == MATRIX_RANK}


def _pixels(shapes: Shapes, name: str, *, last: bool = False) -> Dims:
    """Height and width of an image with several pixels each way, its channels `last` or first.

    Else nothing.
    """
    shape = shapes.get(name, [])
    if len(shape) != IMAGE_RANK:
        return []
    pixels = shape[1:3] if last else shape[2:]
    return pixels if min(size or 0 for size in pixels) > 1 else []


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


def _that_count(model: ModelProto, grids: list[Grid], shapes: Shapes) -> list[Grid]:
    """Those grids with a gradient at their pixels, measured on drawn images."""
    if not grids:
        return []
    try:
        graph = gradients_of(model, [grid.tensor for grid in grids])
    except DifferentiationError:
        return []  # the bundle has no gradients at all, or says so itself
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *(size or 1 for size in shapes["x"][1:]))).astype(np.float32)
    gradients = session.run(None, {"x": x, "target": np.full(2, -1)})
    return [
        grid
        for grid, gradient in zip(grids, gradients, strict=True)
        if np.abs(_at_pixels(grid, gradient)).max() > 0
    ]


def _at_pixels(grid: Grid, values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return values if grid.prefix is None else values[:, grid.prefix :]


def _insert(model: ModelProto, grid: Grid) -> str:
    """Puts the pixels of `grid`, (N, C, h, w), between its tensor and those that read it."""
    before, name = f"layer/{grid.tensor}", f"layer/{grid.tensor}/pixels"
    place = _rename_output(model, grid.tensor, before)
    if grid.prefix is None:
        nodes = [
            helper.make_node("Transpose", [before], [name], perm=TO_FIRST),
            helper.make_node("Transpose", [name], [grid.tensor], perm=TO_LAST),
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
