"""Images that may have several classes or none, listed in a CSV.

The first line names the columns, in one of two forms:

    path,labels        red.jpg,ball;toy      the classes of an image, with semicolons between them
    path,ball,toy,…    red.jpg,1,1,…         a column for each class of the model, 1 or 0

Semicolons may separate the columns, too, as Excel writes them. Paths are relative to the folder of
the CSV. An image without a class has an empty cell, or zeros.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from service.image.resize import Input
from training.data import DataError
from training.data.files import Skipped, is_image, on_disk
from training.data.images import Tagged
from training.data.layout import Placed
from training.data.listed import rows_of
from training.data.scan import scan

LISTED = {"path", "labels"}
EXPECTED = "path,labels, or path and a column for each class of the model"
YES, NO = ("1", "true", "yes"), ("0", "false", "no", "")


def read(source: Path, spec: Input, classes: Sequence[str]) -> tuple[Tagged, list[Skipped]]:
    """The images that a CSV lists, resized to `spec`, and those that are skipped.

    Raises:
        DataError: it is no such CSV, it names a class that is none of `classes` or an image twice,
            or holds no image.
    """
    found: dict[str, list[bool]] = {}
    placed, skipped = [], []
    known = (LISTED, {"path", *classes})
    for number, row in rows_of(source, known, EXPECTED):
        name = PurePosixPath(row["path"])
        if str(name) in found:
            raise DataError(f"{source}, line {number}: {name} is listed twice: leave one line out")
        has = _classes(row, classes, f"{source}, line {number}")
        file = on_disk(source.parent / name, name) if is_image(name) else None
        if file is None or isinstance(file, Skipped):
            skipped.append(file or Skipped(str(name), "is no image by its suffix"))
            continue
        found[str(name)] = has
        placed.append(Placed("train", classes[0], file))
    scanned = scan(placed, spec, classes)
    images = scanned.splits.get("train")
    if images is None or not len(images):
        raise DataError(f"{source} lists no image that can be read")
    has_of = np.array([found[str(name)] for name in images.names], bool)
    return Tagged(images, has_of), skipped + scanned.skipped


def _classes(row: Mapping[str, str], classes: Sequence[str], place: str) -> list[bool]:
    """For each class, whether the image of `row` has it."""
    if set(row) == LISTED:
        names = {name.strip() for name in row["labels"].split(";")} - {""}
        unknown = sorted(names - set(classes))
        if unknown:
            raise DataError(
                f"{place}: {', '.join(unknown[:5])} is no label of the model: write the classes as "
                "--labels names them, with semicolons between them"
            )
        return [label in names for label in classes]
    values = [row[label].lower() for label in classes]
    wrong = sorted(set(values) - {*YES, *NO})
    if wrong:
        raise DataError(f"{place} has the value {wrong[0]!r}; give 1 or 0")
    return [value in YES for value in values]
