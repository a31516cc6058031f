"""Segments of an image: int64 (H, W), numbers from 0 to M − 1, each of them used.

They come from a grid, given as its number of cells a side, from superpixels that grow out of its
cells (`service.explain.maps.superpixels`), or from a mask that a caller sent.
"""

import numpy as np
from jaxtyping import Int64

from service.errors import InvalidParameter
from service.image.resize import Size, sides

# Of a mask. As many as the finest grid has (32 × 32), so that a mask never costs more than a grid.
LEAST, MOST = 2, 1024
GRID, SUPERPIXELS = SEGMENTATIONS = ("grid", "superpixels")

Segments = Int64[np.ndarray, "H W"]


def cells(segments: int | Segments) -> int:
    """The number of segments of a large enough image: of superpixels, at most."""
    return segments**2 if isinstance(segments, int) else count(segments)


def of_labels(labels: Int64[np.ndarray, "H W"]) -> Segments:
    """Makes a segment of the pixels of each label, numbered in the order of the labels.

    Raises:
        InvalidParameter: there are fewer than 2 or more than 1,024.
    """
    values, numbers = np.unique(labels, return_inverse=True)
    if not LEAST <= len(values) <= MOST:
        remedy = "draw more than one" if len(values) < LEAST else "join some"
        size = f"{labels.shape[1]}×{labels.shape[0]}"
        raise InvalidParameter(
            f"the mask has {len(values):,} segments in the {size} px that the network sees; "
            f"the limits are {LEAST} and {MOST:,}: {remedy}"
        )
    return numbers.reshape(labels.shape).astype(np.int64)


def grid(size: Size, cells: int) -> Segments:
    """`cells` × `cells` rectangles, as equal as possible; at most one a pixel."""
    down, across = (np.arange(side) * min(cells, side) // side for side in sides(size))
    return np.asarray(down[:, None] * (across[-1] + 1) + across, np.int64)


def count(segments: Segments) -> int:
    """The number of segments."""
    return int(segments.max()) + 1


def areas(segments: Segments) -> Int64[np.ndarray, " segments"]:
    """The number of pixels of each segment."""
    return np.bincount(segments.ravel()).astype(np.int64)
