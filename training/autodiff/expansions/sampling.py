"""Images sampled at places that may depend on the image, as in a spatial transformer."""

from itertools import product

import numpy as np
from jaxtyping import Float
from onnx import TensorProto

from training.autodiff.builder import Builder
from training.autodiff.registry import Context, expansion

BILINEAR = ("bilinear", "linear")  # in opset 16, and since 20
IMAGE_RANK = 4


@expansion("GridSample")
def _grid_sample(ctx: Context) -> tuple[str, ...]:
    """Bilinear interpolation of x (N, C, H, W) at a grid (N, h, w, 2) of places from −1 to 1.

    Each place gets the weighted sum of the four elements around it; those outside are zeros, or
    the nearest element (`border`). As in Jaderberg et al., arXiv 1506.02025.
    """
    graph, border = ctx.graph, ctx.attribute("padding_mode", "zeros") == "border"
    shape = graph.shape(ctx.x)
    mode, padding = ctx.attribute("mode", "linear"), ctx.attribute("padding_mode", "zeros")
    if mode not in BILINEAR or padding == "reflection" or len(shape) != IMAGE_RANK:
        raise ctx.unsupported(f"mode {mode}, padding {padding}: only bilinear, zeros or border")
    channels, height, width = (graph.size(ctx.x, (axis,)) for axis in (1, 2, 3))
    places = graph.node("Reshape", ctx.node.input[1], graph.integers(-1, 1, _points(ctx), 2))
    ends = []
    for axis, size in enumerate((width, height)):
        index = graph.constant(axis, "int64")
        pixel = _pixel(ctx, graph.node("Gather", places, index, axis=3), size)
        pixel = graph.node("Clip", pixel, 0.0, float(size - 1)) if border else pixel
        ends.append(_neighbours(graph, pixel, size))
    rows = graph.node("Reshape", ctx.x, graph.integers(-1, channels, height * width))
    parts = []
    for (x, share_x), (y, share_y) in product(*ends):
        place = graph.node("Add", graph.node("Mul", y, float(width)), x)
        indices = graph.node("Cast", place, to=TensorProto.INT64)
        indices = graph.node("Expand", indices, graph.integers(1, channels, 1))
        seen = graph.node("GatherElements", rows, indices, axis=2)
        parts.append(graph.node("Mul", seen, graph.node("Mul", share_x, share_y)))
    sizes = (graph.size(ctx.node.input[1], (axis,)) for axis in (1, 2))
    return (graph.node("Reshape", graph.node("Sum", *parts), graph.integers(-1, channels, *sizes)),)


def _points(ctx: Context) -> int:
    return ctx.graph.size(ctx.node.input[1], (1, 2))


def _pixel(ctx: Context, place: str, size: int) -> str:
    """A place from −1 to 1 as an index: of centres of pixels, or of their outer edges."""
    graph = ctx.graph
    scale = (size - 1) / 2 if ctx.attribute("align_corners", 0) else size / 2
    return graph.node("Add", graph.node("Mul", place, scale), (size - 1) / 2)


def _neighbours(graph: Builder, pixel: str, size: int) -> list[tuple[str, str]]:
    """The two indices around `pixel`, each with its share; 0 for an index outside."""
    low = graph.node("Floor", pixel)
    above = graph.node("Sub", pixel, low)
    result = []
    for index, share in (
        (low, graph.node("Sub", 1.0, above)),
        (graph.node("Add", low, 1.0), above),
    ):
        inside = graph.node("Clip", index, 0.0, float(size - 1))
        is_inside = graph.node("Cast", graph.node("Equal", inside, index), to=TensorProto.FLOAT)
        result.append((inside, graph.node("Mul", share, is_inside)))
    return result


@expansion("AffineGrid")
def _affine_grid(ctx: Context) -> tuple[str, ...]:
    """The places θ·(x, y, 1) of all pixels, by the matrices θ (N, 2, 3)."""
    graph = ctx.graph
    if len(graph.shape(ctx.y)) != IMAGE_RANK:
        raise ctx.unsupported("it is not of two dimensions")
    sizes = [graph.size(ctx.y, (axis,)) for axis in (1, 2)]
    ends = [_centres(size, aligned=ctx.attribute("align_corners", 0)) for size in sizes]
    rows, columns = np.meshgrid(*ends, indexing="ij")
    places = np.stack([columns, rows, np.ones_like(rows)], -1).reshape(-1, 3)
    turned = graph.node("Transpose", ctx.x, perm=[0, 2, 1])
    moved = graph.node("MatMul", graph.constant(places), turned)
    return (graph.node("Reshape", moved, graph.integers(-1, *sizes, 2)),)


def _centres(size: int, *, aligned: int) -> Float[np.ndarray, " size"]:
    """The places from −1 to 1 of `size` pixels; `aligned`: those of the outer ones are −1 and 1."""
    outer = 1.0 if aligned else 1 - 1 / size
    return np.linspace(-outer, outer, size)
