"""A planted bias: a training set in which colour goes with class, for an audit to find.

Every class has a colour of its own, the hues evenly around the circle, and every image is tinted
with one colour. In the training set a `share` of each class gets the colour of that class. The
other training images and all test images get colours drawn regardless of class. A network that
learns the colour is then often wrong on test images, and one that learns the shape is not. With a
share of 0 colours carry no information, which makes the fair counterpart. Known as coloured or
biased MNIST and CIFAR (Nam et al., "Learning from Failure", NeurIPS 2020, arXiv 2007.02561).
"""

import colorsys
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from PIL import Image

from training.data import ClassIndices, DataError, Pixels
from training.data.images import Images

TINT = 0.3  # weight of the colour in every pixel


def write(
    folder: Path, splits: dict[str, Images], classes: tuple[str, ...], share: float, seed: int
) -> None:
    """Writes the tinted images as FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png.

    Raises:
        DataError: `folder` is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} holds files: name an empty or a new folder")
    rng, palette = np.random.default_rng(seed), colours(len(classes))
    for split, images in sorted(splits.items()):
        # test images get any colour, so that accuracy on them shows what the network goes by
        biased = share if split == "train" else 0.0
        drawn = draw_colours(images.labels, len(classes), biased, rng)
        _save(folder / split, tinted(images.pixels, palette[drawn]), images.labels, classes)


def colours(count: int) -> Float64[np.ndarray, "count 3"]:
    """One colour for each class, RGB in 0…255."""
    return 255 * np.array(
        [colorsys.hsv_to_rgb(number / count, 1.0, 1.0) for number in range(count)]
    )


def draw_colours(
    labels: ClassIndices, classes: int, share: float, rng: np.random.Generator
) -> ClassIndices:
    """The number of each image's colour: that of its class for `share` of a class, else any."""
    drawn = rng.integers(classes, size=len(labels))
    for label in range(classes):
        own = rng.permutation(np.flatnonzero(labels == label))
        drawn[own[: round(share * len(own))]] = label
    return drawn


def tinted(pixels: Pixels, colour: Float64[np.ndarray, "rows 3"]) -> Pixels:
    """Blends TINT of an image's `colour` into each of its pixels."""
    return np.asarray(np.rint((1 - TINT) * pixels + TINT * colour[:, None, None]), np.uint8)


def _save(folder: Path, pixels: Pixels, labels: ClassIndices, classes: tuple[str, ...]) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
    # PNG keeps the tint exactly, and JPEG would halve the resolution of colours
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        Image.fromarray(image).save(folder / classes[label] / f"{number:06}.png")
