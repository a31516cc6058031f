"""The names and the output of a foreign ONNX file: found by shape, or named by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

CHANNELS, IMAGE_RANK, LOGITS_RANK = 3, 4, 2

Dims = list[int | None]


class ForeignError(Exception):
    """A file of which no bundle can be made; the message names the missing part and an option."""


@dataclass(frozen=True)
class Names:
    """Tensors that the caller names; None = found by shape."""

    input: str | None = None
    output: str | None = None
    cam_layer: str | None = None


def dims_of(info: ValueInfoProto) -> Dims:
    """The shape; None for a free dimension."""
    return [
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in info.type.tensor_type.shape.dim
    ]


def listed(infos: Sequence[ValueInfoProto]) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{info.name} {dims_of(info)}" for info in infos)


def find_output(model: ModelProto, classes: int, name: str | None) -> str:
    """The output `name`, or the one output float32 (N, classes).

    Raises:
        ForeignError: there is none or several.
    """
    outputs = list(model.graph.output)
    matches = [
        info
        for info in outputs
        if (info.name == name if name is not None else _is_logits(info, classes))
    ]
    if name is None and not matches and len(outputs) == 1:
        matches = outputs  # a file may leave its shape open; that of the core is checked
    if len(matches) != 1:
        raise ForeignError(
            f"{len(matches)} outputs are float32 (N, {classes}); "
            f"there are {listed(outputs)}: name one with --output, or correct --labels"
        )
    return str(matches[0].name)


def _is_logits(info: ValueInfoProto, classes: int) -> bool:
    dims = dims_of(info)
    return (
        info.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(dims) == LOGITS_RANK
        and dims[1] in (None, classes)
    )


def before_softmax(model: ModelProto, output: str) -> str:
    """The input of the last softmax, or `output` if no softmax makes it."""
    makers = {name: node for node in model.graph.node for name in node.output}
    node: NodeProto | None = makers.get(output)
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = makers.get(node.input[0])
    is_softmax = node is not None and node.op_type in ("Softmax", "LogSoftmax")
    return str(node.input[0]) if node is not None and is_softmax else output
