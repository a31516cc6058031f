"""A picture cut into segments: int64 (S, S) numbers from 0 to M − 1, each of them used."""

import numpy as np
from jaxtyping import Int64

Segments = Int64[np.ndarray, "size size"]


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
