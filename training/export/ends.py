"""The names of tensors of a foreign ONNX file, and the error for what it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ValueInfoProto

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
