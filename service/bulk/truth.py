"""What the table of a bulk run says about the truth, where the folders are called like classes.

The class of an image is that of the nearest folder above it whose name is a label: in
`test/cat/1.jpg` it is cat. Case does not matter, and "_" stands for a space.
"""

from dataclasses import dataclass
from typing import NamedTuple

import pyarrow.parquet as pq

from service.bulk import places
from service.bulk.places import Place
from service.bundle.manifest import Manifest
from service.telemetry.intervals import wilson

COLUMNS = ["path", "label", "probability", "error_code"]
LISTED = 10  # of the mistakes


class Mistake(NamedTuple):
    """An image of the class `truth` that the model calls `label`, with `probability` in 0…1."""

    path: str
    truth: str
    label: str
    probability: float


@dataclass(frozen=True)
class Verdict:
    """The predictions beside the folders of their images.

    `right` of `count` images are right, in folders of `classes` classes; `others` are images in no
    such folder. `worst`: at most LISTED mistakes, the most probable ones first.
    """

    right: int
    count: int
    classes: int
    others: int
    worst: tuple[Mistake, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        return wilson(self.right, self.count)

    def lines(self) -> list[str]:
        """The accuracy in words, and what was left out of it."""
        low, high = self.interval
        images, classes = _counted(self.count, "image"), _counted(self.classes, "class", "classes")
        share = f"accuracy {self.right / self.count:.1%} (95 % interval {low:.1%} to {high:.1%})"
        lines = [f"{share}: {self.right:,} of {images} right, in folders of {classes}"]
        if self.others:
            others = _counted(self.others, "image")
            lines.append(f"not counted: {others} in no folder called like a class")
        return lines


def judge(table: Place, manifest: Manifest) -> Verdict | None:
    """The verdict on a table; None if no folder is called like a class, and for multi-label models.

    Rows with an error count nowhere. Memory holds a row group at a time.
    """
    if manifest.is_multi_label:
        return None
    labels = {_plain(label): label for label in manifest.labels}
    right = count = others = 0
    seen: set[str] = set()
    worst: list[Mistake] = []
    with pq.ParquetFile(places.source(table)) as file:
        for batch in file.iter_batches(columns=COLUMNS):
            for row in batch.to_pylist():
                truth = None if row["error_code"] else _class_of(row["path"], labels)
                if truth is None:
                    others += not row["error_code"]
                    continue
                seen.add(truth)
                count += 1
                if _plain(row["label"]) == _plain(truth):
                    right += 1
                else:
                    worst.append(Mistake(row["path"], truth, row["label"], row["probability"]))
            worst = sorted(worst, key=lambda one: (-one.probability, one.path))[:LISTED]
    return Verdict(right, count, len(seen), others, tuple(worst)) if count else None


def _class_of(path: str, labels: dict[str, str]) -> str | None:
    names = map(_plain, reversed(path.split("/")[:-1]))
    return next((labels[name] for name in names if name in labels), None)


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
