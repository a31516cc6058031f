"""A data set in words, for its user to check before the first step: counts, skips, duplicates."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from training.data import ClassIndices, duplicates
from training.data.images import Stored
from training.data.read import Dataset, describe

UNEVEN = 3  # times as many images as the smallest class
FEW = 50  # training images of a class
ROWS = 40  # of the table


def describe_dataset(dataset: Dataset) -> str:
    """Skipped files, a table of classes × splits, and what is odd about it."""
    lines = [describe(dataset.skipped)] if dataset.skipped else []
    return "\n".join([*lines, *_table(dataset), *_remarks(dataset)])


def _table(dataset: Dataset) -> Iterator[str]:
    splits = (dataset.training, dataset.validation, dataset.test)
    counts = np.stack([_counts(part.labels, dataset) for part in splits], axis=1)
    width = max(map(len, (*dataset.classes, "class")))
    yield f"{'class':<{width}}  {'train':>9}{'validation':>12}{'test':>9}"
    for name, row in list(zip(dataset.classes, counts.tolist(), strict=True))[:ROWS]:
        yield _row(name, row, width)
    if len(counts) > ROWS:
        yield f"… and {len(counts) - ROWS:,} more classes"
    yield _row("all", counts.sum(0).tolist(), width)


def _row(name: str, row: list[int], width: int) -> str:
    training, validation, test = row
    return f"{name:<{width}}  {training:>9,}{validation:>12,}{test:>9,}"


def _remarks(dataset: Dataset) -> Iterator[str]:
    if dataset.drawn:
        yield (
            f"{' and '.join(dataset.drawn)}: drawn from the training images, the same share of "
            "each class"
        )
    counts = _counts(dataset.training.labels, dataset)
    least, most = (dataset.classes[position] for position in (counts.argmin(), counts.argmax()))
    if counts.max() >= UNEVEN * counts.min():
        yield (
            f"uneven: {most} has {counts.max() / counts.min():.1f} times as many training images "
            f"as {least}: judge by macro F1 and by each class, not by accuracy"
        )
    if counts.min() < FEW:
        yield f"few: {least} has {counts.min()} training images; {FEW} or more would be better"
    if isinstance(dataset.training.held, Stored):
        yield "large: the images are read from their files for each use, not kept in memory"
    yield from _duplicates(dataset)


def _duplicates(dataset: Dataset) -> Iterator[str]:
    for name, images, other, others in (
        ("validation", dataset.validation, "training", dataset.training),
        ("test", dataset.test, "training", dataset.training),
        ("test", dataset.test, "validation", dataset.validation),
    ):
        found = duplicates.between(images, others)
        if len(found.positions):
            first, of = images.names[found.positions[0]], others.names[found.of[0]]
            yield (
                f"duplicates: {len(found.positions):,} of {len(images):,} {name} images look like "
                f"a {other} image, {found.equal:,} of them equal in every pixel "
                f"(first: {first}, {of}): the figures of {name} flatter"
            )


def _counts(labels: ClassIndices, dataset: Dataset) -> Int64[np.ndarray, " classes"]:
    return np.bincount(labels, minlength=len(dataset.classes))
