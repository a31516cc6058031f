"""Labelled images from a source, in three splits, resized as the service resizes them.

A source is the word `cifar10` (downloaded by torchvision) or `planted` (`training.data.patches`), a
folder of images or a tar of one (`training.data.layout`), or a CSV (`training.data.listed`).

Splits that the source lacks are drawn from its training images, a tenth of each class. The test
split serves reports alone, and is drawn in the same way whatever the seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.bundle.manifest import Manifest
from service.image.resize import Input
from training.data import DataError, files, listed, patches
from training.data.files import Skipped
from training.data.images import Images, joined
from training.data.layout import Placed, arrange, check
from training.data.scan import fingerprint, scan
from training.data.split import SHARE, HeldOut, hold_out

CIFAR10, PLANTED = "cifar10", "planted"
TEST_SEED = 0
SHOWN = 20  # skipped files in a message


@dataclass(frozen=True)
class Dataset:
    """A source in three parts.

    `fingerprint` is the SHA-256 of classes, pixels and labels before any image was held out.
    `skipped` are files that are no images of the data set, `drawn` the splits that the source
    lacked.
    """

    name: str
    classes: tuple[str, ...]
    training: Images
    validation: Images
    test: Images
    fingerprint: str
    skipped: tuple[Skipped, ...] = ()
    drawn: tuple[str, ...] = ()


class Found(NamedTuple):
    """The splits that a source has, the names of its classes, and its fingerprint."""

    splits: Mapping[str, Images]
    classes: tuple[str, ...]
    fingerprint: str
    skipped: list[Skipped]


def read(
    source: str, spec: Input, held_out: HeldOut = SHARE, seed: int = 0, *, strict: bool = False
) -> Dataset:
    """Reads `source`, resizes its images to `spec`, and completes its splits.

    Validation images are held out as `held_out` and `seed` say, unless the source has some.

    Raises:
        DataError: the source is missing, its layout is not clear, a class has too few images, or,
            with `strict`, a file is skipped.
    """
    found = _found(source, spec)
    if strict and found.skipped:
        raise DataError(f"{describe(found.skipped)}: remove them, or leave --strict out")
    splits = _with_test(found)
    if "validation" not in splits:
        training, validation = _hold_out(splits["train"], found.classes, held_out, seed)
        splits |= {"train": training, "validation": validation}
    drawn = tuple(split for split in ("validation", "test") if split not in found.splits)
    return Dataset(
        name_of(Path(source)),
        found.classes,
        splits["train"],
        splits["validation"],
        splits["test"],
        found.fingerprint,
        tuple(found.skipped),
        drawn,
    )


def read_splits(source: str, spec: Input) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The images of `source` by split, with a test split, and the names of the classes.

    Raises:
        DataError: the source is missing, its layout is not clear, or a class has too few images.
    """
    found = _found(source, spec)
    return _with_test(found), found.classes


def read_labelled(
    source: Path, spec: Input, classes: tuple[str, ...]
) -> tuple[Images, list[Skipped]]:
    """All images of a folder, a tar or a CSV, from every split; and the files that are skipped.

    Labels are positions in `classes`.

    Raises:
        DataError: the source is missing, holds no images, or has folders that are none of
            `classes`.
    """
    placed, skipped = find(source)
    unknown = sorted({item.label for item in placed} - set(classes))
    if unknown:
        raise DataError(
            f"{source} has folders that are no label of the model ({', '.join(unknown[:5])}): "
            "name the folders as --labels names the classes"
        )
    scanned = scan(placed, spec, classes)
    return joined(list(scanned.splits.values())), skipped + scanned.skipped


def read_strangers(source: Path, spec: Input) -> Images:
    """All images of a folder, a tar or a CSV, whatever their labels; other files are left out.

    Raises:
        DataError: the source is missing, or holds no images.
    """
    placed, _ = find(source)
    classes = tuple(sorted({item.label for item in placed}))
    return joined(list(scan(placed, spec, classes).splits.values()))


def name_of(source: Path) -> str:
    """The name of the data in `source`: that of the file or folder, up to the first dot."""
    return source.name.split(".")[0]


def describe(skipped: list[Skipped] | tuple[Skipped, ...]) -> str:
    """A list of the skipped files with reasons, a line each, up to SHOWN of them."""
    few = "1 file is no image" if len(skipped) == 1 else f"{len(skipped):,} files are no images"
    lines = [f"  {item.name}: {item.reason}" for item in skipped[:SHOWN]]
    if len(skipped) > SHOWN:
        lines.append(f"  … and {len(skipped) - SHOWN:,} more")
    return "\n".join([f"{few} of the data set:", *lines])


def find(source: Path) -> tuple[list[Placed], list[Skipped]]:
    """The images of a folder, a tar or a CSV by split and class, and the files that are skipped.

    Raises:
        DataError: the source is missing, or its layout is not clear.
    """
    if not source.exists():
        raise DataError(
            f"{source} does not exist: name a folder of images, a tar of one, a CSV of "
            f"path,label, or {CIFAR10}"
        )
    if source.suffix.lower() == ".csv":
        return listed.read(source)
    listing = files.in_tar(source) if source.is_file() else files.in_folder(source)
    return arrange(listing, source)


def check_same(dataset: Dataset, fingerprint: str, place: Path) -> None:
    """Checks that `dataset` is the data that the run in `place` was trained on.

    Raises:
        DataError: the fingerprints differ.
    """
    if dataset.fingerprint != fingerprint:
        raise DataError(
            f"{dataset.name} has fingerprint {dataset.fingerprint[:12]}…, {place} was trained on "
            f"{fingerprint[:12]}…: name that with --data"
        )


def check_classes(dataset: Dataset, labels: tuple[str, ...]) -> None:
    """Checks that `dataset` has the classes of a bundle, in the same order.

    Raises:
        DataError: the classes differ.
    """
    if dataset.classes != labels:
        raise DataError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, the bundle "
            f"{', '.join(labels)}: give the data that the bundle was made for"
        )


def check_head(manifest: Manifest) -> None:
    """Checks that an image of the bundle with `manifest` has one class, as one in a data set has.

    Raises:
        DataError: the bundle is multi-label.
    """
    if manifest.is_multi_label:
        raise DataError(
            f"{manifest.name} is multi-label, and an image of a data set has one class here: a "
            "multi-label bundle can be served and explained, but not measured or quantised"
        )


def _found(source: str, spec: Input) -> Found:
    if source == CIFAR10:
        return _cifar10(Path(source))
    if source == PLANTED:
        splits = patches.splits(spec.size)
        return Found(splits, patches.CLASSES, fingerprint(patches.CLASSES, splits), [])
    placed, skipped = find(Path(source))
    labels: dict[str, set[str]] = {}
    for item in placed:
        labels.setdefault(item.split, set()).add(item.label)
    classes = check(labels, Path(source))
    scanned = scan(placed, spec, classes)
    _check_readable(scanned.splits, classes, source, scanned.skipped)
    return Found(scanned.splits, classes, scanned.fingerprint, skipped + scanned.skipped)


def _check_readable(
    splits: Mapping[str, Images], classes: tuple[str, ...], source: str, skipped: list[Skipped]
) -> None:
    """Checks that every class has readable training images, and every split an image."""
    for split, images in splits.items():
        present = np.bincount(images.labels, minlength=len(classes)) > 0
        lost = [name for name, here in zip(classes, present, strict=True) if not here]
        if not present.any() or (split == "train" and lost):
            raise DataError(
                f"{source} has no readable images of {', '.join(lost[:5])} in {split}; "
                f"{describe(skipped)}"
            )


def _with_test(found: Found) -> dict[str, Images]:
    splits = dict(found.splits)
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(
            splits["train"], found.classes, SHARE, TEST_SEED
        )
    return splits


def _hold_out(
    images: Images, classes: tuple[str, ...], held_out: HeldOut, seed: int
) -> tuple[Images, Images]:
    """The images that remain, and those held out."""
    try:
        remaining, drawn = hold_out(images.labels, held_out, seed)
    except ValueError as error:
        smallest = classes[int(np.bincount(images.labels).argmin())]
        raise DataError(f"{error}; the smallest class is {smallest}") from None
    return images.take(remaining), images.take(drawn)


def _cifar10(root: Path) -> Found:
    # torchvision takes seconds to import, and folders do without it
    from torchvision.datasets import CIFAR10 as Cifar10  # noqa: N811, PLC0415

    parts = {
        name: Cifar10(Path("data") / root, train=name == "train", download=True)
        for name in ("train", "test")
    }
    splits = {
        name: Images(part.data, np.asarray(part.targets, np.int64)) for name, part in parts.items()
    }
    classes = tuple(parts["train"].classes)
    return Found(splits, classes, fingerprint(classes, splits), [])
