"""Superpixels: an image cut along its own edges, by SLIC.

Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", IEEE TPAMI 34,
2012: k-means over colour in CIELAB and place, from a grid of cells on. A pixel may join the cells
around the one that it began in (Ren and Reid, "gSLIC", 2011), so a round takes the same time
whatever the number of cells. Few pixels end apart from the rest of their superpixel, and stay with
it. The same image gives the same superpixels: nothing is drawn.

NumPy and Pillow do it: scikit-image would bring SciPy, and the small libraries that have SLIC crash
on small images or are no longer kept.
"""

from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image, ImageCms

from service.explain.maps.segments import Segments, grid
from service.image.resize import InputPixels

COMPACTNESS = 20.0  # units of CIELAB that weigh as much as the side of a cell; 1 to 40 in the paper
ROUNDS = 10  # of k-means, as in the paper
# Of the copy that is cut, in pixels: any input takes as long at most, and its grain is gone.
MOST_SIDE = 128

Points = Float32[np.ndarray, "pixels 5"]
Cells = Int64[np.ndarray, " pixels"]  # numbers


def superpixels(pixels: InputPixels, cells: int) -> Segments:
    """The superpixels of an image that grow out of a grid of `cells` × `cells`.

    They are as many at most: one that loses every pixel is left out.
    """
    shape = pixels.shape[:2]
    step = -(-max(shape) // MOST_SIDE)
    small = np.asarray(Image.fromarray(pixels).reduce(step))
    start = grid((small.shape[0], small.shape[1]), cells)
    found = _clusters(_points(small, start), start.ravel(), _around(start))
    _, numbers = np.unique(found, return_inverse=True)
    down, across = (np.arange(side) // step for side in shape)
    return np.asarray(numbers.reshape(start.shape)[down[:, None], across], np.int64)


def _clusters(points: Points, begun: Cells, around: Int64[np.ndarray, "9 pixels"]) -> Cells:
    """The cell of each pixel, after k-means from the cells that they have `begun` in."""
    found, centres = begun, np.zeros((int(begun.max()) + 1, points.shape[1]), np.float32)
    for _ in range(ROUNDS):
        sizes = np.bincount(found, minlength=len(centres))
        sums = np.stack([np.bincount(found, column, len(centres)) for column in points.T], 1)
        kept = sizes > 0  # one without pixels stays where it was
        centres[kept] = sums[kept] / sizes[kept, None]
        far = [np.square(points - centres[cells]).sum(1) for cells in around]
        before, found = found, around[np.argmin(far, 0), np.arange(len(begun))]
        if np.array_equal(found, before):
            break
    return found


def _points(pixels: InputPixels, start: Segments) -> Points:
    """CIELAB and the place of each pixel, in units that weigh the same."""
    cells = int(start.max()) + 1
    unit = COMPACTNESS / np.sqrt(start.size / cells)
    places = np.moveaxis(np.indices(start.shape), 0, -1) * unit
    return np.concatenate([_lab(pixels), places], axis=2).reshape(-1, 5).astype(np.float32)


def _lab(pixels: InputPixels) -> Float32[np.ndarray, "H W 3"]:
    """sRGB → CIELAB: L in 0…100, a and b in −128…127."""
    image = ImageCms.applyTransform(Image.fromarray(pixels), _to_lab())
    assert image is not None
    values: UInt8[np.ndarray, "H W 3"] = np.array(image)
    return np.concatenate(
        [values[..., :1] / np.float32(2.55), values[..., 1:].view(np.int8)],
        axis=2,
        dtype=np.float32,
    )


@cache
def _to_lab() -> ImageCms.ImageCmsTransform:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.buildTransform(srgb, lab, "RGB", "LAB")


def _around(start: Segments) -> Int64[np.ndarray, "9 pixels"]:
    """For each pixel, its cell of the grid and those around it; at a border some stand twice."""
    columns = int(start[0].max()) + 1
    rows = int(start.max() + 1) // columns
    row, column = np.divmod(start.ravel(), columns)
    return np.stack(
        [
            (row + down).clip(0, rows - 1) * columns + (column + across).clip(0, columns - 1)
            for down, across in product((-1, 0, 1), repeat=2)
        ]
    )
