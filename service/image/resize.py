"""The one resize of training, evaluation and serving: pixels of any size → the network's input.

Pixels are uint8 (H, W, 3), RGB, 0…255; masks are labels uint16 (H, W). `to_input` scales and crops
an image by the rule of an `Input`; `mask_to_input` does the same to a mask. `visible_box` is the
part of an image that the network sees.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt16
from PIL import Image

from service.errors import ManifestError
from service.image.colour import Colour

Pixels = UInt8[np.ndarray, "height width 3"]
InputPixels = UInt8[np.ndarray, "H W 3"]
MaskLabels = UInt16[np.ndarray, "height width"]
Resize = Literal["crop", "stretch", "pad"]

Size = int | tuple[int, int]  # the side of a square in pixels, or (height, width)

MOST_SIDE = 4096  # of an input, in pixels


@dataclass(frozen=True)
class Input:
    """The network's input, and the rule by which an image becomes one.

    `size`: the side of a square input, or (height, width) of a rectangle; (S, S) becomes S.
    `resize`: `crop` takes the middle of an image, in the input's aspect ratio and as large as it
    fits, or smaller by as much as the input's shorter side is below `short_side`. `stretch` ignores
    the aspect ratio; `pad` shows the whole image and fills with the mean.
    `mean`, `std`: per channel, RGB, of pixels in 0…1. predict.onnx holds them, too; the manifest
    repeats them for code that works on normalised pixels. `colour`: whether profiles are applied.
    """

    size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "crop"
    short_side: int = 0
    colour: Colour = "as-sent"

    def __post_init__(self) -> None:
        height, width = self.shape
        if height == width:
            # One spelling of one input, so that a square has one version however it was given.
            object.__setattr__(self, "size", height)
        shorter, longer = sorted(self.shape)
        if not self.short_side:
            object.__setattr__(self, "short_side", shorter)
        if not (1 <= shorter <= self.short_side <= MOST_SIDE and longer <= MOST_SIDE):
            raise ManifestError(
                f"input.size is {self.size} and short_side {self.short_side}; "
                f"1 ≤ size ≤ short_side ≤ {MOST_SIDE}"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:  # noqa: PLR2004
            raise ManifestError(
                f"input.mean is {self.mean} and input.std {self.std}; "
                "both have 3 values, std above 0"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the input, in pixels."""
        return sides(self.size)


def sides(size: Size) -> tuple[int, int]:
    """Height and width of an input of `size`, in pixels."""
    return (size, size) if isinstance(size, int) else size


def scaled(size: Size, scale: Callable[[int], int]) -> Size:
    """`size` with `scale` applied to its sides."""
    if isinstance(size, int):
        return scale(size)
    height, width = size
    return scale(height), scale(width)


def pixels_of(size: Size) -> int:
    """The number of pixels of an input of `size`."""
    return math.prod(sides(size))


def described(size: Size) -> str:
    """`size` in words, for example "48 × 192"."""
    height, width = sides(size)
    return f"{height} × {width}"


class Box(NamedTuple):
    """A rectangle in the pixel coordinates of a sent image; it may reach beyond the image."""

    left: float
    top: float
    right: float
    bottom: float


def to_input(pixels: Pixels, spec: Input) -> InputPixels:
    """Scales `pixels` to the input (H, W, 3) of `spec`, bilinearly with antialiasing."""
    height, width = pixels.shape[:2]
    rows, columns = spec.shape
    if (height, width) == (rows, columns) and spec.short_side == min(spec.shape):
        # Many data sets have this size already; resampling would cost a copy and change nothing.
        return pixels
    image = Image.fromarray(pixels)
    if spec.resize == "pad":
        return _padded(image, spec)
    box = visible_box(width, height, spec)
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=box))


def visible_box(width: int, height: int, spec: Input) -> Box:
    """The part of an image of `width` × `height` pixels that the network sees."""
    if spec.resize == "stretch":
        return Box(0, 0, width, height)
    rows, columns = spec.shape
    if spec.resize == "pad":
        # The padded image lies on whole pixels of the input: so does what is drawn back onto it.
        x, y, inner_width, inner_height = _inside(width, height, spec)
        wide, high = width / inner_width, height / inner_height  # of one of its pixels
        return Box(-x * wide, -y * high, (columns - x) * wide, (rows - y) * high)
    # Whole numbers until one division: a box that fits exactly must not reach out by a rounding.
    part = min(width * rows, height * columns) * min(rows, columns)
    across, down = part / (spec.short_side * rows), part / (spec.short_side * columns)
    left, top = (width - across) / 2, (height - down) / 2
    return Box(left, top, left + across, top + down)


def mask_to_input(labels: MaskLabels, spec: Input) -> Int64[np.ndarray, "H W"]:
    """The label of each pixel of the network's input, −1 where `pad` reaches beyond the image."""
    height, width = labels.shape
    rows, columns = spec.shape
    # The nearest pixel's label, never a mean: 3 and 5 do not make a 4.
    fitted = np.full((rows, columns), -1, np.int64)
    if spec.resize == "pad":
        x, y, across, down = _inside(width, height, spec)
        nearest = np.ix_(_nearest(0.0, float(height), down), _nearest(0.0, float(width), across))
        fitted[y : y + down, x : x + across] = labels[nearest]
    else:
        left, top, right, bottom = map(float, visible_box(width, height, spec))
        fitted[:] = labels[np.ix_(_nearest(top, bottom, rows), _nearest(left, right, columns))]
    return fitted


def _nearest(start: float, end: float, count: int) -> Int64[np.ndarray, " count"]:
    """The indices of the pixels that hold the middles of `count` equal parts of start…end."""
    return np.floor(start + (np.arange(count) + 0.5) * (end - start) / count).astype(np.int64)


def _padded(image: Image.Image, spec: Input) -> InputPixels:
    left, top, across, down = _inside(image.width, image.height, spec)
    mean = tuple(round(255 * value) for value in spec.mean)
    rows, columns = spec.shape
    canvas = Image.new("RGB", (columns, rows), (mean[0], mean[1], mean[2]))
    canvas.paste(image.resize((across, down), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(canvas)


def _inside(width: int, height: int, spec: Input) -> tuple[int, int, int, int]:
    """The place of a padded image in the network's input: left, top, width and height."""
    rows, columns = spec.shape
    scale = min(columns / width, rows / height)
    # An image much longer than wide would be rounded to no width.
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    return round((columns - width * scale) / 2), round((rows - height * scale) / 2), across, down
