"""Cells of a map: means of its pixels, which an eye can read.

At 224 pixels a map of gradients is a grain of opposite signs that an overlay draws as a grey veil.
It is drawn by the means of cells, 8 pixels wide there, or 16 where signs have to cancel, on a
smooth surface. A class activation map, which comes from a few cells, has no creases then. The raw
map stays what it is.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from service.explain.maps.scaling import spread

LEAST_SIDE = 96  # pixels of the shorter side; below it a pixel can be seen
CELLS, SIGNED_CELLS = 28, 14  # of the shorter side

DOUBLINGS = 3

Map = Float32[np.ndarray, "H W"]


def cell_of(shape: tuple[int, ...], *, signed: bool) -> int:
    """The side of a cell in pixels, for a map of `shape` (H, W); 1 where pixels can be seen."""
    shorter = min(shape)
    return 1 if shorter < LEAST_SIDE else round(shorter / (SIGNED_CELLS if signed else CELLS))


def means(values: Map, cell: int) -> Float32[np.ndarray, "cells_high cells_wide"]:
    """The means over cells of about `cell` pixels a side, as equal as possible."""
    if cell == 1:
        return values
    down, across = (_averaging(side, cell) for side in values.shape)
    return np.asarray(down @ values @ across.T)


def smooth(values: Map) -> Float32[np.ndarray, "rows_shown columns_shown"]:
    """`values` with eight times as many cells a side, on a smooth surface through their means.

    Doubling linearly again and again leads to the quadratic B-spline, which has no creases and
    never goes beyond its values: a cubic one would draw signs that the map does not have.
    """
    down, across = (_doubling(side) for side in values.shape)
    return np.asarray(down @ values @ across.T)


def smooth_of(
    scaled: Float32[np.ndarray, "rows columns"], shape: tuple[int, ...], cell: int
) -> Float32[np.ndarray, "rows_shown columns_shown"]:
    """`smooth` of the means of the map of `shape` (H, W) that the few values of `scaled` become.

    In one step: those of all pixels take as long as the class activation map itself.
    """
    down, across = (_surface(*side, cell) for side in zip(scaled.shape, shape, strict=True))
    return np.asarray(down @ scaled @ across.T)


@lru_cache(64)
def _surface(count: int, side: int, cell: int) -> Float32[np.ndarray, "side_shown count"]:
    """The weights of `count` values in a smooth surface through the means of a `side`."""
    means = _averaging(side, cell) @ spread(count, side)
    return np.asarray(_doubling(len(means)) @ means)


@lru_cache(64)
def _averaging(side: int, cell: int) -> Float32[np.ndarray, "cells side"]:
    """The weights of each pixel in the mean of each cell."""
    count = max(1, side // cell)
    # The first pixel of cell k is the least i with i · count // side = k; map.js does the same.
    cells = np.arange(side) * count // side == np.arange(count)[:, None]
    return np.asarray(cells / cells.sum(1, keepdims=True), np.float32)


@lru_cache(64)
def _doubling(side: int) -> Float32[np.ndarray, "side_shown side"]:
    """The weights of `side` values in eight times as many, after DOUBLINGS."""
    weights = np.eye(side, dtype=np.float32)
    for _ in range(DOUBLINGS):
        weights = spread(weights.shape[0], 2 * weights.shape[0]) @ weights
    return weights
