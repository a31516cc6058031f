"""Holding images out of a data set, the same number of each class, drawn by a seed.

The functions take class indices and return positions in them: int64, ascending, without repetition.
"""

import numpy as np
from jaxtyping import Int64

from training.data import ClassIndices

Positions = Int64[np.ndarray, " _"]


def hold_out(labels: ClassIndices, count: int, seed: int) -> tuple[Positions, Positions]:
    """The positions that remain, and the `count` // K of each class that are held out.

    Raises:
        ValueError: some class would have no image held out, or none that remains.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    each, smallest = count // len(classes), sizes.min()
    if not 1 <= each < smallest:
        raise ValueError(
            f"{count} images are to be held out, {each} of each class, and the smallest class has "
            f"{smallest}: hold out between {len(classes)} and {len(classes) * (smallest - 1)}"
        )
    held_out = draw_each(labels, each, seed)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def draw_each(labels: ClassIndices, each: int, seed: int) -> Positions:
    """The positions of `each` images of every class, or of all where a class has fewer."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:each] for label in np.unique(labels)]
    # ascending, so that images keep the order of the data set
    return np.sort(np.concatenate(drawn))
