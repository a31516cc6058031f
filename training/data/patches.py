"""Planted patches: images in which the colour of one square decides the class, and nothing else.

The square lies at any place. Around it are soft greys, grey rectangles, one grey square of the
same size, and noise: all drawn without regard to class and place. So a map of a network that knows
the classes has a right answer by pixel. The colours are those of the planted bias, which goes with
the whole image instead (`training.data.planted`).

Images are uint8 (N, H, W, 3), RGB; labels are positions in CLASSES; patches are bool (N, H, W),
True in the square.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from PIL import Image

from service.image.resize import Size, sides
from training.data import ClassIndices, Pixels
from training.data.images import Images
from training.data.planted import colours

CLASSES = ("red", "yellow", "green", "cyan", "blue", "magenta")
SIZE = 32  # that of this project's networks
PART = 4  # the shorter side of an image is so many sides of the patch
SOFT = 4  # cells a side of the soft greys
RECTANGLES = 3
GREYS = (48, 208)  # levels, from and to
TINT, NOISE = 10, 8  # standard deviations in levels, of a cell or rectangle and of a pixel
STRENGTH = 0.75  # weight of the colour in the patch; the rest is mean grey
TRAINING, HELD_OUT = 3000, 500  # images; as many for validation and for the test

Canvas = Float64[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Planted:
    """Images with their labels and their patches."""

    pixels: Pixels
    labels: ClassIndices
    patches: Bool[np.ndarray, "rows H W"]


def draw(rows: int, seed: int | Sequence[int], size: Size = SIZE) -> Planted:
    """So many images; the same seed draws the same ones."""
    rng, shape = np.random.default_rng(seed), sides(size)
    side = min(shape) // PART
    labels = rng.integers(len(CLASSES), size=rows)
    palette = STRENGTH * colours(len(CLASSES)) + (1 - STRENGTH) * 128
    pixels, patches = np.empty((rows, *shape, 3), np.uint8), np.zeros((rows, *shape), bool)
    for image, patch, label in zip(pixels, patches, labels.tolist(), strict=True):
        canvas = _soft(shape, rng)
        rectangles = rng.integers(side // 2, 2 * side + 1, (RECTANGLES, 2)).tolist()
        for height, width in [*rectangles, [side, side]]:
            canvas[_box(shape, (height, width), rng)] = _grey(rng)
        place = _box(shape, (side, side), rng)
        canvas[place], patch[place] = palette[label], True
        image[:] = np.rint(canvas + rng.normal(0, NOISE, canvas.shape)).clip(0, 255)
    return Planted(pixels, labels, patches)


def splits(size: Size = SIZE) -> Mapping[str, Images]:
    """Images to train, to validate and to test a network of that input: always the same ones."""
    counts = {"train": TRAINING, "validation": HELD_OUT, "test": HELD_OUT}
    drawn = {
        name: draw(count, [0, part], size) for part, (name, count) in enumerate(counts.items())
    }
    return {name: Images(each.pixels, each.labels) for name, each in drawn.items()}


def _soft(shape: tuple[int, int], rng: np.random.Generator) -> Canvas:
    """Greys that change slowly, each channel a little by itself."""
    coarse = rng.uniform(*GREYS, (SOFT, SOFT, 1)) + rng.normal(0, TINT, (SOFT, SOFT, 3))
    fine = [
        Image.fromarray(channel.astype(np.float32)).resize(shape[::-1], Image.Resampling.BICUBIC)
        for channel in np.moveaxis(coarse, 2, 0)
    ]
    return np.stack([np.asarray(channel, np.float64) for channel in fine], 2)


def _grey(rng: np.random.Generator) -> Float64[np.ndarray, "3"]:
    return np.asarray(rng.uniform(*GREYS) + rng.normal(0, TINT, 3))


def _box(
    shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> tuple[slice, slice]:
    """A rectangle of `size` at any place inside `shape`."""
    top, left = (
        int(rng.integers(whole - part + 1)) for whole, part in zip(shape, size, strict=True)
    )
    return np.s_[top : top + size[0], left : left + size[1]]
