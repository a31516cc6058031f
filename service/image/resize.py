"""The one resize of training, evaluation and serving: pixels of any size → the network's input.

Pixels are uint8 (H, W, 3), RGB, 0…255; masks are labels uint16 (H, W). `to_input` scales and crops
an image by the rule of an `Input`; `mask_to_input` does the same to a mask. `visible_box` is the
part of an image that the network sees.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8, UInt16
from PIL import Image

from service.errors import ManifestError

Pixels = UInt8[np.ndarray, "height width 3"]
InputPixels = UInt8[np.ndarray, "size size 3"]
MaskLabels = UInt16[np.ndarray, "height width"]
Resize = Literal["crop", "stretch", "pad"]


@dataclass(frozen=True)
class Input:
    """The network's input, and the rule by which an image becomes one.

    `size`: side of the square input, in pixels.
    `resize`: `crop` scales the shorter side to `short_side` and takes the middle, `stretch` ignores
    the aspect ratio, `pad` fits the longer side and fills with the mean.
    `mean`, `std`: per channel, RGB, of pixels in 0…1. predict.onnx holds them, too; the manifest
    repeats them for code that works on normalised pixels.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "crop"
    short_side: int = 0

    def __post_init__(self) -> None:
        if not self.short_side:
            object.__setattr__(self, "short_side", self.size)
        if not 1 <= self.size <= self.short_side <= 4096:  # noqa: PLR2004
            raise ManifestError(
                f"input.size is {self.size} and short_side {self.short_side}; "
                "1 ≤ size ≤ short_side ≤ 4096"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:  # noqa: PLR2004
            raise ManifestError(
                f"input.mean is {self.mean} and input.std {self.std}; "
                "both have 3 values, std above 0"
            )


class Box(NamedTuple):
    """A rectangle in the pixel coordinates of a sent image; it may reach beyond the image."""

    left: float
    top: float
    right: float
    bottom: float


def to_input(pixels: Pixels, spec: Input) -> InputPixels:
    """Scales `pixels` to (S, S, 3) by the rule of `spec`, bilinearly with antialiasing."""
    height, width = pixels.shape[:2]
    size = spec.size
    if height == width == size == spec.short_side:
        # Many data sets have this size already; resampling would cost a copy and change nothing.
        return pixels
    image = Image.fromarray(pixels)
    if spec.resize == "pad":
        return _padded(image, spec)
    return np.asarray(
        image.resize((size, size), Image.Resampling.BILINEAR, box=visible_box(width, height, spec))
    )


def visible_box(width: int, height: int, spec: Input) -> Box:
    """The part of an image of `width` × `height` pixels that the network sees."""
    if spec.resize == "stretch":
        return Box(0, 0, width, height)
    side = (
        max(width, height)
        if spec.resize == "pad"
        else min(width, height) * spec.size / spec.short_side
    )
    left, top = (width - side) / 2, (height - side) / 2
    return Box(left, top, left + side, top + side)


def mask_to_input(labels: MaskLabels, spec: Input) -> Int64[np.ndarray, "size size"]:
    """The label of each pixel of the network's input, −1 where `pad` reaches beyond the image."""
    height, width = labels.shape
    # The nearest pixel's label, never a mean: 3 and 5 do not make a 4.
    fitted = np.full((spec.size, spec.size), -1, np.int64)
    if spec.resize == "pad":
        x, y, across, down = _inside(width, height, spec)
        nearest = np.ix_(_nearest(0.0, float(height), down), _nearest(0.0, float(width), across))
        fitted[y : y + down, x : x + across] = labels[nearest]
    else:
        left, top, right, bottom = map(float, visible_box(width, height, spec))
        fitted[:] = labels[
            np.ix_(_nearest(top, bottom, spec.size), _nearest(left, right, spec.size))
        ]
    return fitted


def _nearest(start: float, end: float, count: int) -> Int64[np.ndarray, " count"]:
    """The indices of the pixels that hold the middles of `count` equal parts of start…end."""
    return np.floor(start + (np.arange(count) + 0.5) * (end - start) / count).astype(np.int64)


def _padded(image: Image.Image, spec: Input) -> InputPixels:
    left, top, across, down = _inside(image.width, image.height, spec)
    mean = tuple(round(255 * value) for value in spec.mean)
    canvas = Image.new("RGB", (spec.size, spec.size), (mean[0], mean[1], mean[2]))
    canvas.paste(image.resize((across, down), Image.Resampling.BILINEAR), (left, top))
    return np.asarray(canvas)


def _inside(width: int, height: int, spec: Input) -> tuple[int, int, int, int]:
    """The place of a padded image in the network's input: left, top, width and height."""
    box = visible_box(width, height, spec)
    scale = spec.size / (box.right - box.left)
    # An image much longer than wide would be rounded to no width.
    return (
        round(-box.left * scale),
        round(-box.top * scale),
        max(1, round(width * scale)),
        max(1, round(height * scale)),
    )
