"""Holding images out of a data set, the same share of each class, drawn by a seed.

The functions take class indices and return positions in them: int64, ascending, without repetition.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from training.data import ClassIndices

Positions = Int64[np.ndarray, " _"]
HeldOut = int | float  # a number of images, or a share below 1
SHARE = 0.1


def hold_out(labels: ClassIndices, held_out: HeldOut, seed: int) -> tuple[Positions, Positions]:
    """The positions that remain, and those held out: the same share of each class, at least one.

    `held_out` is that share, or the number of images that all classes give together (rounded by
    class).

    Raises:
        ValueError: some class would have no image held out, or none that remains.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    share = held_out if held_out < 1 else held_out / len(labels)
    counts = np.maximum(np.rint(share * sizes).astype(int), 1)
    smallest, asked = sizes.min(), f"{held_out:.0%}" if held_out < 1 else f"{held_out} images"
    if smallest == 1:
        raise ValueError(f"{asked} are to be held out, and the smallest class has one image")
    if (counts >= sizes).any() or 1 <= held_out < len(classes):
        raise ValueError(
            f"{asked} are to be held out, and the smallest class has {smallest}: hold out between "
            f"{len(classes)} and {len(labels) * (smallest - 1) // smallest} images"
        )
    drawn = _draw(labels, counts.tolist(), seed)
    return np.setdiff1d(np.arange(len(labels)), drawn), drawn


def draw_each(labels: ClassIndices, each: int, seed: int) -> Positions:
    """The positions of `each` images of every class, or of all where a class has fewer."""
    return _draw(labels, [each] * len(np.unique(labels)), seed)


def _draw(labels: ClassIndices, counts: Sequence[int], seed: int) -> Positions:
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in zip(np.unique(labels), counts, strict=True)
    ]
    # ascending, so that images keep the order of the data set
    return np.sort(np.concatenate(drawn))
