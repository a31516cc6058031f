"""The layout of a source: from the paths of its images to their splits and classes.

    ROOT/train/<class>/…   ROOT/val/<class>/…   ROOT/test/<class>/…
    ROOT/<class>/…

The class is the first folder below the split, or below ROOT; folders below it are of that class.
Capitals do not matter in the names of splits (NAMES). A tar may hold ROOT under the tar's own name,
and any source may hold the split folders further down. A layout that can be read in two ways is an
error, because a guess would train on wrong labels without a word.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from service.image.kinds import SUFFIXES
from training.data import DataError
from training.data.files import OTHER_FORMATS, File, Listing, Skipped

SPLITS = ("train", "validation", "test")
NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SHOWN = 5  # names in a message

Parts = tuple[str, ...]


class Placed(NamedTuple):
    """A file with its split, one of SPLITS, and its class. Without splits all are in `train`."""

    split: str
    label: str
    file: File


def arrange(listing: Listing, source: Path) -> tuple[list[Placed], list[Skipped]]:
    """The images of a folder or a tar by split and class, and all files that are skipped.

    Raises:
        DataError: the folders are no layout that can be read in one way alone.
    """
    files = listing.files
    if not files:
        raise DataError(f"{source} holds no images ({', '.join(SUFFIXES)}): name another folder")
    above = _above(files, source)
    paths = [file.name.parts[above:] for file in files]
    has_splits = _has_splits({path[0] for path in paths if len(path) > 1}, source)
    below = 1 if has_splits else 0  # the position of the class in a path
    _check_flat(paths, below, source)
    placed, loose = [], []
    for file, path in zip(files, paths, strict=True):
        if len(path) < below + 2:
            loose.append(Skipped(str(file.name), "lies in no class folder"))
            continue
        _check_below(path, below, source)
        split = split_of(path[0]) if has_splits else None
        placed.append(Placed(split or "train", class_name(path[below]), file))
    known = {item.label for item in placed}
    _check_formats(listing.skipped, above + below, known, source)
    return placed, listing.skipped + loose


def split_of(name: str) -> str | None:
    """The split that a folder of this `name` holds, or None."""
    return NAMES.get(name.lower())


def class_name(text: str) -> str:
    """A class by the name of its folder: macOS writes é as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def check(labels: Mapping[str, Iterable[str]], source: Path) -> tuple[str, ...]:
    """The classes of a source, sorted; `labels` are those of the images of each split.

    Raises:
        DataError: there are no training images, one class, or a class that only one split has.
    """
    splits = {split: set(names) for split, names in labels.items()}
    if not splits.get("train"):
        raise DataError(
            f"{source} has no images for training (but {', '.join(splits) or 'none at all'}): "
            "put them below train/<class>/"
        )
    classes = tuple(sorted(set().union(*splits.values())))
    _check_spelling(classes, source)
    for split, names in splits.items():
        others = set().union(*(have for other, have in splits.items() if other != split))
        alone = sorted(names - others)
        # a network cannot learn a class that only the test set has, nor a test judge one it lacks
        if len(splits) > 1 and alone:
            raise DataError(
                f"{source} has classes in {split} alone: {_some(alone)}: "
                "give each class a folder in every split"
            )
    unlearnt = sorted(set(classes) - splits["train"])
    if unlearnt:
        raise DataError(f"{source} has classes without training images: {_some(unlearnt)}")
    if len(classes) == 1:
        raise DataError(
            f"{source} has one class, {classes[0]}: a classifier needs two or more; if the classes "
            f"are folders below {classes[0]}/, unpack the data where it is packed and name that"
        )
    return classes


def _above(files: Sequence[File], source: Path) -> int:
    """The number of folders that hold all of a source: they lie above splits and classes."""
    common = PurePosixPath(os.path.commonpath([file.name.parent for file in files])).parts
    for depth, name in enumerate(common):
        if split_of(name):
            return depth
    depth = len(common)
    if any(split_of(file.name.parts[depth]) for file in files if len(file.name.parts) > depth + 1):
        return depth
    # tar packs a folder under its name. Any other folder that holds all images may be the one
    # class of the source, and the folders in it no classes: `check` then asks.
    return int(source.is_file() and depth == 1 and common[0] == source.name.split(".")[0])


def _has_splits(folders: set[str], source: Path) -> bool:
    splits = sorted(name for name in folders if split_of(name))
    others = sorted(folders - set(splits))
    if splits and others:
        raise DataError(
            f"{source} holds folders of splits ({_some(splits)}) beside others ({_some(others)}): "
            "put every class below train/, val/ or test/, or move the others away"
        )
    return bool(splits)


def _check_flat(paths: Sequence[Parts], below: int, source: Path) -> None:
    """Checks that the source, or each of its splits, has class folders."""
    with_class = {path[:below] for path in paths if len(path) > below + 1}
    for place in sorted({path[:below] for path in paths if len(path) > below} - with_class):
        where = source.joinpath(*place)
        raise DataError(
            f"{where} holds images and no class folders: put them into {where}/<class>/, "
            "or name a CSV with the columns path,label as --data"
        )


def _check_below(path: Parts, below: int, source: Path) -> None:
    """Checks that no split lies below a class: its test images would be trained on."""
    for name in path[below + 1 : -1]:
        if split_of(name):
            raise DataError(
                f"{source} has the split {name}/ below the class {path[below]}/: "
                f"put the splits above the classes ({name}/{path[below]}/), or rename it"
            )


def _check_formats(
    skipped: Sequence[Skipped], position: int, known: set[str], source: Path
) -> None:
    """Checks that no class is left out because its images have another format."""
    for item in skipped:
        path = PurePosixPath(item.name)
        if path.suffix.lower() in OTHER_FORMATS and len(path.parts) > position + 1:
            label = class_name(path.parts[position])
            if label not in known:
                raise DataError(
                    f"{source} has no JPEG, PNG or WebP of the class {label}, but {path.suffix} "
                    "files: convert them, or move the folder away"
                )


def _check_spelling(classes: Sequence[str], source: Path) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.strip().casefold(), name)
        if other != name:
            raise DataError(
                f"{source} has the classes {other!r} and {name!r}, which differ in capitals or "
                "spaces alone: give them one name"
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
