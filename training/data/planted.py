"""A planted bias: a training set in which colour goes with class, whose audit must say so.

Every class has a colour of its own, the hues evenly around the circle, and every image is tinted with one. Of the training images a `share`
of each class gets the colour of that class; the colours of all others, and of every test image, are drawn without regard to class. So a
network that learns the colour is often wrong about the test images, and one that learns the thing is not; with a share of 0 nothing is to
be learnt from colours, which makes the fair counterpart. Known as coloured or biased MNIST and CIFAR (Nam et al., "Learning from Failure",
NeurIPS 2020, arXiv 2007.02561).
"""

import colorsys
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

from training.data.read import DataError, Images

TINT = 0.3  # of the colour in every pixel

Pixels = UInt8[np.ndarray, "rows size size 3"]
Labels = Int64[np.ndarray, " rows"]


def write(
    folder: Path, splits: dict[str, Images], classes: tuple[str, ...], share: float, seed: int
) -> None:
    """Leaves the tinted images as FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png.

    Raises:
        DataError: `folder` holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} holds files: name an empty or a new folder")
    rng, palette = np.random.default_rng(seed), colours(len(classes))
    for split, images in sorted(splits.items()):
        drawn = drawn_colours(images.labels, len(classes), share if split == "train" else 0.0, rng)
        _save(folder / split, tinted(images.pixels, palette[drawn]), images.labels, classes)


def colours(count: int) -> Float64[np.ndarray, "count 3"]:
    """The colours of the classes, RGB in 0…255."""
    return 255 * np.array(
        [colorsys.hsv_to_rgb(number / count, 1.0, 1.0) for number in range(count)]
    )


def drawn_colours(labels: Labels, classes: int, share: float, rng: np.random.Generator) -> Labels:
    """The number of each image's colour: that of its class for `share` of the images of every class, any for the others."""
    drawn = rng.integers(classes, size=len(labels))
    for label in range(classes):
        own = rng.permutation(np.flatnonzero(labels == label))
        drawn[own[: round(share * len(own))]] = label
    return drawn


def tinted(pixels: Pixels, colour: Float64[np.ndarray, "rows 3"]) -> Pixels:
    """Every image with TINT of its `colour` in each pixel."""
    return np.asarray(np.rint((1 - TINT) * pixels + TINT * colour[:, None, None]), np.uint8)


def _save(folder: Path, pixels: Pixels, labels: Labels, classes: tuple[str, ...]) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        Image.fromarray(image).save(folder / classes[label] / f"{number:06}.png")
