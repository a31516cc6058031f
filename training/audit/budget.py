"""The budget of an audit: how many images each measure takes, so that it fits a number of minutes.

The cost of a pass, one image through predict.onnx, is counted from the graph and not timed. So the
same bundle and minutes give the same images on every machine, and a report can be made again. The
minutes are those of a quiet machine with CORES cores, each of which does MULTIPLICATIONS and makes
or changes PIXELS a second (of EfficientNet-Lite0 on an AMD EPYC); another takes more or fewer.
"""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from onnx import ModelProto

from service.image.resize import Size, pixels_of
from training.autodiff import with_shapes

CORES, MULTIPLICATIONS, PIXELS = 2, 4e10, 1e7


class Measure(NamedTuple):
    """A measure of `most` images, `passes` an image, that gets a `share` of the minutes."""

    most: int
    share: float
    passes: int


# A gradient takes about 3.6 passes. Integrated Gradients takes at most 128 steps, which is most of
# what explanations take. The cascade asks every method eight times, for a quarter of its steps and
# samples. Attacks end early: few images take all 3,300 passes.
MEASURES: Mapping[str, Measure] = {
    "familiarity": Measure(1000, 0.03, 4),
    "attacks": Measure(200, 0.2, 600),
    "corruptions": Measure(500, 0.2, 76),
    "explanations": Measure(60, 0.25, 1400),
    "cascade": Measure(16, 0.25, 4900),
    "edits": Measure(2000, 0.07, 31),
}


def counts(model: ModelProto, size: Size, minutes: float) -> dict[str, int]:
    """The images of each measure of `model`, of inputs of `size`, at least 1."""
    seconds = 60 * minutes * CORES / pass_seconds(model, size)
    return {
        name: max(1, min(most, int(share * seconds / passes)))
        for name, (most, share, passes) in MEASURES.items()
    }


def pass_seconds(model: ModelProto, size: Size) -> float:
    """The seconds that one core takes to make an image and to run `model` on it."""
    return multiplications(model) / MULTIPLICATIONS + pixels_of(size) / PIXELS


def multiplications(model: ModelProto) -> int:
    """The multiplications of an image's convolutions and matrix products; the batch counts as 1."""
    graph = with_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        shapes[value.name] = [max(1, dim.dim_value) for dim in dims]
    total = 0
    for node in graph.node:
        results = prod(shapes.get(node.output[0], [])) if node.output else 0
        if node.op_type == "Conv":
            total += results * prod(shapes.get(node.input[1], [])[1:])
        elif node.op_type in ("Gemm", "MatMul"):
            total += results * shapes.get(node.input[0], [1])[-1]
    return total
