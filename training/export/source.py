"""The input of a foreign ONNX file as its caller and its graph describe it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Num

from service.image.resize import Size
from training.export.ends import CHANNELS, ForeignError

Order = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]

LUMA = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Asked(NamedTuple):
    """The caller's word on the input; None = the file says it.

    `mean`, `std`: of pixels in 0…1, in the file's `order`. With both None, a normalisation that the
    graph begins with becomes the bundle's; else it stays, and the file gets normalised values.
    """

    order: Order | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


# The file gets values that the caller has normalised, whatever its graph does with them.
AS_GIVEN = Asked(mean=(0.0,), std=(1.0,))


@dataclass(frozen=True)
class Source:
    """The input `name` of a file, and the way to it from x float32 (N, 3, H, W), RGB, normalised.

    `last`: its channels are last. `unit`: the file takes pixels of 0…`unit`, and not x; else None.
    `mean`, `std`: those of x, of pixels in 0…1, RGB. `half`: the file computes in half precision.
    `notes`: sentences for the caller.
    """

    name: str
    kind: np.dtype[np.generic]
    size: Size
    channels: int
    order: Order
    last: bool
    batch: int | None
    mean: Triple
    std: Triple
    unit: float | None = None
    half: bool = False
    notes: tuple[str, ...] = ()

    @property
    def colours(self) -> str:
        """The colours that the file sees: grey, rgb or bgr."""
        return "grey" if self.channels == 1 else self.order

    def values(self, x: Float32[np.ndarray, "rows 3 H W"]) -> Num[np.ndarray, "rows _ _ _"]:
        """The values of the file's input for x, in its type and layout."""
        if self.unit is not None:
            mean, std = (np.reshape(v, (1, CHANNELS, 1, 1)) for v in (self.mean, self.std))
            x = ((x * std + mean) * self.unit).astype(np.float32)
        if self.channels == 1:
            x = (x * LUMA.reshape(1, CHANNELS, 1, 1)).sum(1, keepdims=True)
        elif self.order == "bgr":
            x = x[:, ::-1]
        planes = np.moveaxis(x, 1, -1) if self.last else x
        if np.issubdtype(self.kind, np.integer):
            planes = np.rint(planes).clip(0, 255)
        return np.ascontiguousarray(planes, self.kind)


def numbers(name: str, text: str | None) -> tuple[float, ...] | None:
    """One number or three, separated by commas; fractions such as 1/255 are allowed.

    Raises:
        ForeignError: it is neither.
    """
    if text is None:
        return None
    try:
        parts = [part.partition("/") for part in text.split(",")]
        values = tuple(float(above) / float(below or 1) for above, _, below in parts)
    except (ValueError, ZeroDivisionError):
        values = ()
    if len(values) not in (1, 3) or (name == "std" and min(values) <= 0):
        raise ForeignError(
            f"--{name} is {text!r}; give one number, or three separated by commas, for example "
            "0.485,0.456,0.406; those of --std are above 0"
        )
    return values


def given(asked: Asked, order: Order, channels: int) -> tuple[Triple, Triple]:
    """Mean and standard deviation as the caller has them, RGB; ImageNet's where it has none."""
    if channels == 1 and any(len(set(value or ())) > 1 for value in (asked.mean, asked.std)):
        raise ForeignError(
            f"--mean is {asked.mean} and --std {asked.std}, and the file is greyscale: give one "
            "value of each"
        )
    mean, std = (
        default if value is None else triple(value, order)
        for value, default in zip((asked.mean, asked.std), _default(channels), strict=True)
    )
    return mean, std


def _default(channels: int) -> tuple[Triple, Triple]:
    if channels == CHANNELS:
        return IMAGENET
    mean, std = (float(np.mean(values).round(3)) for values in IMAGENET)
    return (mean, mean, mean), (std, std, std)


def triple(values: Sequence[float], order: Order) -> Triple:
    """`values` of one channel or of three in `order`, as those of red, green and blue."""
    first, second, third = (float(value) for value in np.broadcast_to(values, CHANNELS))
    return (third, second, first) if order == "bgr" else (first, second, third)
