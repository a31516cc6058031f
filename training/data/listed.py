"""A data set listed in a CSV: a line for each image, with its path and its class.

The first line names the columns: `path,label` or `path,label,split`, in any order, separated by
commas or semicolons. Paths are relative to the folder of the CSV. A split is one of layout.NAMES.
"""

import csv
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath

from training.data import DataError
from training.data.files import Skipped, is_image, on_disk
from training.data.layout import NAMES, Placed, class_name, split_of

COLUMNS = ({"path", "label"}, {"path", "label", "split"})


def read(source: Path) -> tuple[list[Placed], list[Skipped]]:
    """The images that a CSV lists, in the order of their paths, and those that are skipped.

    Raises:
        DataError: it is no such CSV, or gives an image two classes or splits.
    """
    placed: dict[str, Placed] = {}
    skipped = []
    for number, row in rows_of(source, COLUMNS, "path,label or path,label,split"):
        found = _placed(source, number, row)
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        other = placed.setdefault(row["path"], found)
        if other[:2] != found[:2]:
            raise DataError(
                f"{source}, line {number}: {row['path']} is {found.label} in {found.split}, and on "
                f"a line before {other.label} in {other.split}: leave one of the lines out"
            )
    return sorted(placed.values(), key=lambda item: item.file.name), skipped


def rows_of(
    source: Path, known: Collection[AbstractSet[str]], expected: str
) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The number of each line that is not empty, and its values by column.

    The first line must name one of the sets of columns in `known`, which `expected` says in words.
    It may do so in capital letters.

    Raises:
        DataError: it does not, a line has another number of values, or it is no CSV in UTF-8.
    """
    try:
        # Excel begins UTF-8 with a mark, and separates by semicolons where the comma is decimal
        with source.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            separator = ";" if ";" in head else ","
            names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
            if set(names) not in known:
                names = [name.lower() for name in names]
            if len(names) != len(set(names)) or set(names) not in known:
                raise DataError(
                    f"{source} begins with {head.strip()[:80]!r}: the first line must be {expected}"
                )
            for number, row in enumerate(csv.reader(file, delimiter=separator), 2):
                if row and len(row) != len(names):
                    raise DataError(
                        f"{source}, line {number} has {len(row)} values; the first line names "
                        f"{len(names)} columns"
                    )
                if row:
                    yield number, {key: v.strip() for key, v in zip(names, row, strict=True)}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} cannot be read as CSV in UTF-8 ({error})") from None


def _placed(source: Path, number: int, row: Mapping[str, str]) -> Placed | Skipped:
    split = split_of(row.get("split", "train"))
    if split is None:
        raise DataError(
            f"{source}, line {number}: the split is {row['split']!r}; "
            f"give one of {', '.join(NAMES)}, or leave the column out"
        )
    name = PurePosixPath(row["path"])
    if not row["label"]:
        return Skipped(str(name), "has no label")
    if not is_image(name):
        return Skipped(str(name), "is no image by its suffix")
    file = on_disk(source.parent / name, name)
    return file if isinstance(file, Skipped) else Placed(split, class_name(row["label"]), file)
