"""Images from outside the distribution of the training, uint8 (N, H, W, 3), of four kinds.

`noise` is uniform. In `scrambled` test images, tiles of an eighth of a side change places.
`textures` are tiles of the two photographs that scikit-learn ships, and `digits` its handwritten
digits: real images of another kind. The familiarity score should be low for all of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from sklearn.datasets import load_digits, load_sample_images

from service.image import resize
from service.image.resize import Input

TILES = 8  # a side

AnyPixels = UInt8[np.ndarray, "_ H W 3"]  # the kinds may differ in their number of images


def out_of_distribution(
    familiar: AnyPixels, spec: Input, count: int, seed: int
) -> Mapping[str, AnyPixels]:
    """`count` images of each kind, or fewer where a kind has fewer; `familiar` are test images."""
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    return {
        "noise": rng.integers(0, 256, (count, *spec.shape, 3), np.uint8),
        "scrambled": np.stack([scrambled(image, rng) for image in familiar[:count]]),
        "textures": np.stack([_texture(photographs, rng, spec) for _ in range(count)]),
        "digits": np.stack([_digit(image, spec) for image in load_digits().images[:count]]),
    }


def scrambled(
    image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """The image with its tiles in another order; lines that do not fill a tile stay."""
    high, wide = (max(1, side // TILES) for side in image.shape[:2])
    rows, columns = len(image) // high, image.shape[1] // wide
    place = np.s_[: rows * high, : columns * wide]
    tiles = image[place].reshape(rows, high, columns, wide, 3).swapaxes(1, 2)
    order = rng.permutation(rows * columns)
    mixed = tiles.reshape(-1, high, wide, 3)[order].reshape(tiles.shape).swapaxes(1, 2)
    result = image.copy()
    result[place] = mixed.reshape(rows * high, columns * wide, 3)
    return result


def _texture(
    photographs: Sequence[np.ndarray], rng: np.random.Generator, spec: Input
) -> UInt8[np.ndarray, "H W 3"]:
    photograph = photographs[int(rng.integers(len(photographs)))]
    # a crop of this size shows a texture, hardly a thing
    side = int(rng.integers(32, 65))
    top, left = (int(rng.integers(length - side)) for length in photograph.shape[:2])
    return resize.to_input(
        np.ascontiguousarray(photograph[top : top + side, left : left + side]), spec
    )


def _digit(image: np.ndarray, spec: Input) -> UInt8[np.ndarray, "H W 3"]:
    grey = (image * 255 / 16).astype(np.uint8)
    return resize.to_input(np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2)), spec)
