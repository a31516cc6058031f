"""The mass of a class activation map: how far it spreads, where it lies, how much it is.

The mass of a cell is what speaks for the target there, relu(cell). Drift is measured by these, so
they are few numbers and cost microseconds.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

EDGE = 0.5  # of the way from the centre to a border, where the edge begins


class Mass(NamedTuple):
    """The mass m of a map; all 0 where nothing speaks for the target, or the logits are equal.

    `extent`, 0…1: the share of all n cells that the mass would fill if it were even,
    (Σ m)² / (n Σ m²). `edge`, 0…1: the share of the mass outside the middle half of both sides.
    `across`, `down`, −1…1: its centre, from the left border to the right and from top to bottom.
    `strength`: Σ m beside the spread of the logits.
    """

    extent: float
    edge: float
    across: float
    down: float
    strength: float


def mass_of(cells: Float32[np.ndarray, "height width"], spread: float) -> Mass:
    """The mass of `cells`; `spread` is that of the logits."""
    return masses_of(cells[None], [spread])[0]


def masses_of(
    cells: Float32[np.ndarray, "maps height width"], spreads: Sequence[float]
) -> list[Mass]:
    """The mass of each of several maps."""
    # In float64, where the squares of no float32 vanish.
    mass = np.maximum(cells, 0, dtype=np.float64).reshape(len(cells), -1)
    sums = (mass @ _weights(*cells.shape[1:]).T).tolist()
    squares = (mass * mass).sum(1).tolist()
    found = []
    for (total, edge, across, down), square, spread in zip(sums, squares, spreads, strict=True):
        if total > 0 and spread > 0:
            extent = total**2 / (mass.shape[1] * square)
            shares = extent, edge / total, across / total, down / total, total / spread
        else:
            shares = 0.0, 0.0, 0.0, 0.0, 0.0
        found.append(Mass(*shares))
    return found


@lru_cache(maxsize=8)
def _weights(height: int, width: int) -> Float64[np.ndarray, "4 cells"]:
    """The weights of the cells in the sum, the edge and the two moments."""
    down, across = np.meshgrid(_centres(height), _centres(width), indexing="ij")
    outside = np.maximum(abs(down), abs(across)) > EDGE
    return np.stack([np.ones_like(down), outside, across, down]).reshape(4, -1)


def _centres(cells: int) -> Float64[np.ndarray, " cells"]:
    return np.asarray((2 * np.arange(cells) + 1) / cells - 1)
