"""Labelled images in memory: pixels uint8 (N, S, S, 3) RGB, labels int64 (N,) in 0…K−1.

A source is the word `cifar10` (downloaded by torchvision), a folder of images, or a tar of one:

    ROOT/train/<class>/*.jpg   ROOT/test/<class>/*.jpg     or     ROOT/<class>/*.jpg, of which one image in ten becomes the test set

Validation images are held out of the training set, the same number of each class, by a seed; the test set is for reports alone.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64, UInt8

from service.errors import RequestError
from service.image import decode, resize
from service.image.decode import MAX_LOCAL_PIXELS, SUFFIXES
from service.image.resize import Input

CIFAR10 = "cifar10"
SPLITS = ("train", "test")
TEST_SHARE = 10  # one image in so many, where the source has no test set of its own


class DataError(Exception):
    """The source holds no data set that can be trained on."""


@dataclass(frozen=True)
class Images:
    """`pixels` uint8 (N, S, S, 3) RGB, `labels` int64 (N,), and `names` (N,): paths in the source, or else numbers."""

    pixels: UInt8[np.ndarray, "count size size 3"]
    labels: Int64[np.ndarray, " count"]
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.str_))

    def __post_init__(self) -> None:
        if not len(self.names):
            object.__setattr__(self, "names", np.arange(len(self.labels)).astype(np.str_))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Images":
        """The images at `index`, in its order."""
        return Images(self.pixels[index], self.labels[index], self.names[index])


@dataclass(frozen=True)
class Dataset:
    """A source read whole: `fingerprint` is the sha256 of classes, pixels and labels before anything was held out."""

    name: str
    classes: tuple[str, ...]
    training: Images
    validation: Images
    test: Images
    fingerprint: str


def read(source: str, spec: Input, held_out: int, seed: int) -> Dataset:
    """The data set of `source`, fitted to `spec`, with `held_out` training images set apart for validation.

    Raises:
        DataError: the source is missing, holds no images, or too few to hold that many out.
    """
    splits, classes = read_splits(source, spec, seed)
    fingerprint = _fingerprint(classes, splits)
    training, validation = _hold_out(splits["train"], held_out, seed)
    return Dataset(
        Path(source).name.split(".")[0], classes, training, validation, splits["test"], fingerprint
    )


def read_splits(source: str, spec: Input, seed: int) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The images of `source` by split, `train` and `test`, with nothing held out; and the classes.

    Raises:
        DataError: the source is missing, holds no images, or too few for a test set.
    """
    splits, classes = _cifar10(Path(source)) if source == CIFAR10 else _folder(Path(source), spec)
    if "test" not in splits:
        splits["train"], splits["test"] = _hold_out(
            splits["train"], len(splits["train"]) // TEST_SHARE, seed
        )
    return splits, classes


def read_labelled(source: Path, spec: Input, classes: tuple[str, ...]) -> Images:
    """All images of a folder <class>/*.jpg or of a tar of one, whatever split they are in, with their places in `classes` as labels.

    Raises:
        DataError: the source is missing, holds no images, or has folders that are none of `classes`.
    """
    splits, found = _folder(source, spec)
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DataError(
            f"{source} has folders that are no label of the model ({', '.join(unknown[:5])}): name folders as --labels does"
        )
    number = np.array([classes.index(label) for label in found])
    every = [Images(part.pixels, number[part.labels], part.names) for part in splits.values()]
    return Images(
        *(
            np.concatenate(arrays)
            for arrays in zip(*((p.pixels, p.labels, p.names) for p in every), strict=True)
        )
    )


def check_same(dataset: Dataset, fingerprint: str, place: Path) -> None:
    """Nothing, if `dataset` is what the run in `place` was trained on.

    Raises:
        DataError: it is not.
    """
    if dataset.fingerprint != fingerprint:
        raise DataError(
            f"{dataset.name} has fingerprint {dataset.fingerprint[:12]}…, {place} was trained on {fingerprint[:12]}…: name that with --data"
        )


def check_classes(dataset: Dataset, labels: tuple[str, ...]) -> None:
    """Nothing, if `dataset` has the classes of a bundle, in its order.

    Raises:
        DataError: it has others.
    """
    if dataset.classes != labels:
        raise DataError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}, the bundle {', '.join(labels)}: "
            "give the data that the bundle was made for"
        )


def _hold_out(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """(The rest, `count` images): the same number of each class, drawn by `seed`."""
    classes = np.unique(images.labels)
    each = count // len(classes)
    if each < 1 or each >= np.bincount(images.labels)[classes].min():
        fewest = np.bincount(images.labels)[classes].min()
        raise DataError(
            f"{count} images are to be held out, {each} of each class, and the smallest class has {fewest}: "
            f"hold out between {len(classes)} and {len(classes) * (fewest - 1)}"
        )
    rng = np.random.default_rng(seed)
    held = np.concatenate(
        [rng.permutation(np.flatnonzero(images.labels == label))[:each] for label in classes]
    )
    rest = np.setdiff1d(np.arange(len(images)), held)
    return images.take(rest), images.take(np.sort(held))


def _fingerprint(classes: tuple[str, ...], splits: dict[str, Images]) -> str:
    digest = hashlib.sha256("\n".join(classes).encode())
    for name in SPLITS:
        digest.update(splits[name].pixels.tobytes())
        digest.update(splits[name].labels.tobytes())
    return digest.hexdigest()


def _cifar10(root: Path) -> tuple[dict[str, Images], tuple[str, ...]]:
    from torchvision.datasets import CIFAR10 as Cifar10  # noqa: N811, PLC0415 - slow to import, and only asked for here

    parts = {
        name: Cifar10(Path("data") / root, train=name == "train", download=True) for name in SPLITS
    }
    splits = {
        name: Images(part.data, np.asarray(part.targets, np.int64)) for name, part in parts.items()
    }
    return splits, tuple(parts["train"].classes)


def _folder(root: Path, spec: Input) -> tuple[dict[str, Images], tuple[str, ...]]:
    if not root.exists():
        raise DataError(
            f"{root} does not exist: name a folder of images, a tar of one, or {CIFAR10}"
        )
    found: dict[str, list[tuple[str, np.ndarray, str]]] = {}
    for path, content in _tar_members(root) if root.is_file() else _folder_files(root):
        found.setdefault(_split_of(path), []).append(
            (path.parent.name, _fitted(path, content, spec), str(path))
        )
    if "train" not in found:
        raise DataError(
            f"{root} holds no images under train/<class>/ or <class>/ ({', '.join(SUFFIXES)})"
        )
    classes = tuple(sorted({label for label, _, _ in found["train"]}))
    unknown = {label for label, _, _ in found.get("test", [])} - set(classes)
    if unknown:
        raise DataError(
            f"{root} has test classes without training images: {', '.join(sorted(unknown))}"
        )
    return {split: _stacked(images, classes) for split, images in found.items()}, classes


def _stacked(found: list[tuple[str, np.ndarray, str]], classes: tuple[str, ...]) -> Images:
    number = {label: index for index, label in enumerate(classes)}
    labels, pixels, names = zip(*found, strict=True)
    return Images(
        np.stack(pixels), np.array([number[label] for label in labels], np.int64), np.array(names)
    )


def _split_of(path: PurePosixPath) -> str:
    return "test" if "test" in path.parts[:-2] else "train"


def _fitted(path: PurePosixPath, content: bytes, spec: Input) -> UInt8[np.ndarray, "size size 3"]:
    try:
        return resize.to_input(decode.decode(content, MAX_LOCAL_PIXELS).pixels, spec)
    except RequestError as error:
        raise DataError(f"{path}: {error}") from None


def _folder_files(root: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield PurePosixPath(path.relative_to(root)), path.read_bytes()


def _tar_members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Images of a tar in the order of their names; nothing is unpacked to disk, so no member can escape a folder."""
    try:
        with tarfile.open(path) as archive:
            members = {
                member.name: archive.extractfile(member) for member in archive if member.isfile()
            }
            for name in sorted(members):
                file = members[name]
                if file is not None and name.lower().endswith(SUFFIXES):
                    yield PurePosixPath(name), file.read()
    except tarfile.TarError as error:
        raise DataError(f"{path} is neither a folder nor a tar ({error})") from None


def drawn_images(count: int, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Images that no one photographed, uint8 (`count`, S, S, 3): smooth colours with noise, for comparing graphs without data."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves = rng.uniform(0.5, 4, (count, 3, 2)), rng.uniform(0, 2 * np.pi, (count, 3))
    phases = waves[0][..., 0, None, None] * x + waves[0][..., 1, None, None] * y
    smooth = 127 + 100 * np.sin(2 * np.pi * phases + waves[1][..., None, None])
    return np.asarray(
        np.clip(np.moveaxis(smooth, 1, -1) + rng.normal(0, 12, (count, size, size, 3)), 0, 255),
        np.uint8,
    )
