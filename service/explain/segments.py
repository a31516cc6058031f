"""An image cut into segments: int64 (S, S) numbers from 0 to M − 1, each of them used.

What cuts it is a number, the cells a side of a grid, or a mask that was sent.
"""

import numpy as np
from jaxtyping import Int64

from service.errors import InvalidParameter

LEAST, MOST = 2, 1024  # segments of a mask: the most cost as much as the finest grid

Segments = Int64[np.ndarray, "size size"]


def cut(size: int, segments: int | Segments) -> Segments:
    """The mask that `segments` is, or the grid of so many cells a side."""
    return grid(size, segments) if isinstance(segments, int) else segments


def cells(segments: int | Segments) -> int:
    """How many there are of a mask, or of a grid of so many cells a side."""
    return segments**2 if isinstance(segments, int) else count(segments)


def of_labels(labels: Int64[np.ndarray, "size size"]) -> Segments:
    """Pixels of the same label are a segment; numbered in the order of the labels.

    Raises:
        InvalidParameter: there are fewer than 2 or more than 1,024.
    """
    found, numbers = np.unique(labels, return_inverse=True)
    if not LEAST <= len(found) <= MOST:
        remedy = "draw more than one" if len(found) < LEAST else "join some"
        size = f"{labels.shape[1]}×{labels.shape[0]}"
        raise InvalidParameter(
            f"the mask has {len(found):,} segments in the {size} px that the network sees; it takes {LEAST} to {MOST:,}: {remedy}"
        )
    return numbers.reshape(labels.shape).astype(np.int64)


def grid(size: int, cells: int) -> Segments:
    """`cells` × `cells` rectangles, as equal as they can be; at most one a pixel."""
    along = np.arange(size) * min(cells, size) // size
    return (along[:, None] * min(cells, size) + along[None]).astype(np.int64)


def count(segments: Segments) -> int:
    """How many there are."""
    return int(segments.max()) + 1


def areas(segments: Segments) -> Int64[np.ndarray, " segments"]:
    """The pixels of each."""
    return np.bincount(segments.ravel()).astype(np.int64)
