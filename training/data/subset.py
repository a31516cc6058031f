"""A small data set drawn from a larger one, to learn how many images a task needs.

As many images of each class are drawn for training as are asked for, whatever their split was. All
other images of these classes become the test set.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data import DataError
from training.data.files import Skipped
from training.data.layout import Placed
from training.data.split import draw_each


class Written(NamedTuple):
    """The numbers of images that `write` wrote, and the files of the source that it left out."""

    training: int
    test: int
    skipped: list[Skipped]


def write(
    found: tuple[list[Placed], list[Skipped]],
    folder: Path,
    each: int,
    classes: Sequence[str] = (),
    seed: int = 0,
) -> Written:
    """Copies the images of `classes` (default: all) to FOLDER/train/CLASS and FOLDER/test/CLASS.

    Raises:
        DataError: `folder` is not empty, a class is unknown or is the only one, or has no more
            than `each` images.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} holds files: name an empty or a new folder")
    placed, skipped = found
    names = _classes(placed, classes)
    chosen = [item for item in placed if item.label in names]
    labels = np.array([names.index(item.label) for item in chosen])
    _check_counts(labels, names, each)
    drawn = set(draw_each(labels, each, seed).tolist())
    for position, item in enumerate(chosen):
        _copy(item, position, folder / ("train" if position in drawn else "test"))
    return Written(len(drawn), len(chosen) - len(drawn), skipped)


def _classes(placed: Sequence[Placed], asked: Sequence[str]) -> list[str]:
    known = sorted({item.label for item in placed})
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise DataError(f"no images of {', '.join(unknown)}: the classes are {', '.join(known)}")
    names = sorted(set(asked)) or known
    if len(names) == 1:
        raise DataError(f"one class, {names[0]}: a classifier needs two or more")
    return names


def _check_counts(labels: np.ndarray, names: Sequence[str], each: int) -> None:
    counts = np.bincount(labels, minlength=len(names))
    fewest = int(counts.argmin())
    if counts[fewest] <= each:
        raise DataError(
            f"{names[fewest]} has {counts[fewest]} images, and {each} are to be drawn with others "
            f"left for the test: draw {counts[fewest] - 1} at most, or leave the class out"
        )


def _copy(item: Placed, position: int, split: Path) -> None:
    # the number, because folders below a class may hold files of one name
    place = split / item.label / f"{position:06}-{item.file.name.name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(item.file.read())
