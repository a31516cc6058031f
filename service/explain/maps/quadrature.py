"""Nested quadrature on the path 0…1: cells with a point in the middle, split where they err most.

The integral of a slope over a cell is about its width times the slope in its middle. It should be
the change of the score across the cell, so a cell's gap is known without a further point: the
scores at the points come with the slopes, those of the ends of the path are given, and between two
neighbours the cubic of both scores and slopes has the score at the border.

A cell splits in three. Its point is then the middle of the middle third, so every point is used
again. The gaps of all cells, with their signs, sum to the gap of the whole path.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

FIRST = 4  # cells, before the first split
# Gaps of opposite signs cancel, by chance while the map is wrong: without their signs they may be
# so many times what the whole path may miss.
UNSIGNED = 4.0
SPLIT = 3
# Of all gaps without their signs: the cells with so many of them split. All at once would refine
# where nothing moves, one after another would fill no batch.
WORST = 0.8

Values = Float64[np.ndarray, " cells"]
Chosen = Int64[np.ndarray, " chosen"]


@dataclass(frozen=True)
class Cells:
    """Cells that fill the path in order, each from `lows` on, so wide as its of `widths`."""

    lows: Values
    widths: Values

    @property
    def middles(self) -> Values:
        """The points."""
        return np.asarray(self.lows + self.widths / 2)

    def __len__(self) -> int:
        """The number of cells."""
        return len(self.lows)

    def gaps(self, scores: Values, slopes: Values, begin: float, end: float) -> Values:
        """Width times slope less the change of the score, of each cell.

        `scores` and `slopes` are those in the middles; `begin` and `end` the scores at 0 and 1.
        """
        borders = _between(self.middles, scores, slopes, self.lows[1:])
        changes = np.diff(np.concatenate([[begin], borders, [end]]))
        return np.asarray(self.widths * slopes - changes)

    def split(self, chosen: Chosen) -> tuple["Cells", Int64[np.ndarray, " new"]]:
        """The cells with those `chosen` cut in three; for each the old one of its middle, or −1."""
        counts = np.ones(len(self), np.int64)
        counts[chosen] = SPLIT
        old = np.repeat(np.arange(len(self)), counts)
        widths = (self.widths / counts)[old]
        third = np.arange(len(old)) - np.repeat(np.cumsum(counts) - counts, counts)
        cells = Cells(self.lows[old] + third * widths, widths)
        return cells, np.where((counts[old] == 1) | (third == 1), old, -1)


def equal(count: int) -> Cells:
    """So many cells of equal width."""
    return Cells(np.arange(count) / count, np.full(count, 1 / count))


def within(gaps: Values, allowed: float) -> bool:
    """True if the whole path misses at most `allowed`, and not by cancelling gaps alone."""
    return bool(abs(gaps.sum()) <= allowed and np.abs(gaps).sum() <= UNSIGNED * allowed)


def worst(gaps: Values, most: int) -> Chosen:
    """The fewest cells with `WORST` of the gaps, without their signs; `most` of them."""
    sizes = np.abs(gaps)
    order = np.argsort(-sizes, kind="stable")
    count = 1 + int(np.searchsorted(np.cumsum(sizes[order]), WORST * sizes.sum()))
    return np.sort(order[: min(most, count)])


def _between(
    points: Values, scores: Values, slopes: Values, places: Float64[np.ndarray, " borders"]
) -> Float64[np.ndarray, " borders"]:
    """The cubic through both neighbours' scores and slopes, at a place between each two."""
    steps = np.diff(points)
    at = (places - points[:-1]) / steps
    rise = np.diff(scores)
    bend = slopes[:-1] * steps - rise, rise - slopes[1:] * steps
    bent = at * (1 - at) * ((1 - at) * bend[0] + at * bend[1])
    return np.asarray(scores[:-1] + at * rise + bent)
