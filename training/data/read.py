"""Labelled images from a folder, a tar or CIFAR-10, resized as the service resizes them.

A source is the word `cifar10` (downloaded by torchvision), a folder of images, or a tar of one:

    ROOT/train/<class>/*.jpg   ROOT/test/<class>/*.jpg
    ROOT/<class>/*.jpg         one image in ten becomes the test set

Validation images are held out of the training set. The test set serves reports alone.
"""

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int64, UInt8

from service.errors import RequestError
from service.image import decode, resize
from service.image.decode import MAX_LOCAL_PIXELS, SUFFIXES
from service.image.resize import Input
from training.data.split import hold_out

CIFAR10 = "cifar10"
MAX_FILE_BYTES = 100_000_000  # of one image; cameras write less
SPLITS = ("train", "test")
TEST_SHARE = 10  # one image in so many, where the source has no test set of its own


class DataError(Exception):
    """The source holds no data set that can be trained on."""


@dataclass(frozen=True)
class Images:
    """Images with the indices of their classes.

    `pixels` uint8 (N, S, S, 3) RGB, `labels` int64 (N,). `names` (N,) are paths in the source, or
    numbers where the images have no paths.
    """

    pixels: UInt8[np.ndarray, "count size size 3"]
    labels: Int64[np.ndarray, " count"]
    names: np.ndarray = field(default_factory=lambda: np.zeros(0, np.str_))

    def __post_init__(self) -> None:
        if not len(self.names):
            # the way to assign in a frozen dataclass
            object.__setattr__(self, "names", np.arange(len(self.labels)).astype(np.str_))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: np.ndarray) -> "Images":
        """The images at `index`, in its order."""
        return Images(self.pixels[index], self.labels[index], self.names[index])


@dataclass(frozen=True)
class Dataset:
    """A source in three parts.

    `fingerprint` is the SHA-256 of classes, pixels and labels before any image was held out.
    """

    name: str
    classes: tuple[str, ...]
    training: Images
    validation: Images
    test: Images
    fingerprint: str


def read(source: str, spec: Input, held_out: int, seed: int) -> Dataset:
    """Reads `source`, resizes its images to `spec`, and holds out `held_out` training images.

    Raises:
        DataError: the source is missing, holds no images, or too few to hold that many out.
    """
    splits, classes = read_splits(source, spec, seed)
    # taken before the split, so that it does not depend on `held_out` and `seed`
    fingerprint = _fingerprint(classes, splits)
    training, validation = _hold_out(splits["train"], held_out, seed)
    name = Path(source).name.split(".")[0]
    return Dataset(name, classes, training, validation, splits["test"], fingerprint)


def read_splits(source: str, spec: Input, seed: int) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The images of `source` by split, `train` and `test`, and the names of the classes.

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
    """All images of a folder <class>/*.jpg, or of a tar of one, from every split.

    Labels are positions in `classes`.

    Raises:
        DataError: the source is missing, holds no images, or has folders that are none of
            `classes`.
    """
    splits, names = _folder(source, spec)
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DataError(
            f"{source} has folders that are no label of the model ({', '.join(unknown[:5])}): "
            "name the folders as --labels names the classes"
        )
    index = np.array([classes.index(name) for name in names])
    parts = list(splits.values())
    return Images(
        np.concatenate([part.pixels for part in parts]),
        np.concatenate([index[part.labels] for part in parts]),
        np.concatenate([part.names for part in parts]),
    )


def load_image(name: str, content: bytes, spec: Input) -> UInt8[np.ndarray, "size size 3"]:
    """Decodes and resizes the image file `content`; `name` is for the message.

    Raises:
        DataError: the service would reject the image.
    """
    try:
        return resize.to_input(decode.decode(content, MAX_LOCAL_PIXELS).pixels, spec)
    except RequestError as error:
        raise DataError(f"{name}: {error}") from None


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


def _hold_out(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """The images that remain, and the `count` held out."""
    try:
        remaining, held_out = hold_out(images.labels, count, seed)
    except ValueError as error:
        raise DataError(str(error)) from None
    return images.take(remaining), images.take(held_out)


def _fingerprint(classes: tuple[str, ...], splits: dict[str, Images]) -> str:
    # of decoded pixels, not of files: a folder and a tar of it are the same data
    digest = hashlib.sha256("\n".join(classes).encode())
    for name in SPLITS:
        digest.update(splits[name].pixels.tobytes())
        digest.update(splits[name].labels.tobytes())
    return digest.hexdigest()


def _cifar10(root: Path) -> tuple[dict[str, Images], tuple[str, ...]]:
    # torchvision takes seconds to import, and folders do without it
    from torchvision.datasets import CIFAR10 as Cifar10  # noqa: N811, PLC0415

    parts = {
        name: Cifar10(Path("data") / root, train=name == "train", download=True) for name in SPLITS
    }
    splits = {
        name: Images(part.data, np.asarray(part.targets, np.int64)) for name, part in parts.items()
    }
    return splits, tuple(parts["train"].classes)


def _folder(root: Path, spec: Input) -> tuple[dict[str, Images], tuple[str, ...]]:
    """The images of a folder or a tar, by split, and the names of the classes."""
    if not root.exists():
        raise DataError(
            f"{root} does not exist: name a folder of images, a tar of one, or {CIFAR10}"
        )
    splits: dict[str, list[tuple[str, np.ndarray, str]]] = {}
    for path, content in _tar_members(root) if root.is_file() else _folder_files(root):
        pixels = load_image(str(path), content, spec)
        splits.setdefault(_split_of(path), []).append((path.parent.name, pixels, str(path)))
    if "train" not in splits:
        raise DataError(
            f"{root} holds no images under train/<class>/ or <class>/ ({', '.join(SUFFIXES)})"
        )
    classes = tuple(sorted({label for label, _, _ in splits["train"]}))
    unknown = {label for label, _, _ in splits.get("test", [])} - set(classes)
    # a network cannot learn a class that only the test set has
    if unknown:
        raise DataError(
            f"{root} has test classes without training images: {', '.join(sorted(unknown))}"
        )
    return {split: _stacked(rows, classes) for split, rows in splits.items()}, classes


def _stacked(rows: list[tuple[str, np.ndarray, str]], classes: tuple[str, ...]) -> Images:
    index = {label: number for number, label in enumerate(classes)}
    labels, pixels, names = zip(*rows, strict=True)
    return Images(
        np.stack(pixels), np.array([index[label] for label in labels], np.int64), np.array(names)
    )


def _split_of(path: PurePosixPath) -> str:
    # the last two parts are class and file: a class may be called "test"
    return "test" if "test" in path.parts[:-2] else "train"


def _folder_files(root: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    # in the order of names: that of the file system would change the fingerprint
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            if not path.is_file():
                raise DataError(f"{path} is no file, but a pipe, a device or a broken link")
            _check_size(str(path), path.stat().st_size)
            yield PurePosixPath(path.relative_to(root)), path.read_bytes()


def _tar_members(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The images of a tar in the order of their names."""
    try:
        # members are read in memory: nothing is unpacked to disk, so none can escape a folder
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive if _is_image(member)}
            _check_end(archive, path)
            for name in sorted(members):
                file = archive.extractfile(members[name])
                if file is not None:
                    yield PurePosixPath(name), file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} is neither a folder nor a tar, or it was cut off ({reason})"
        ) from None


def _is_image(member: tarfile.TarInfo) -> bool:
    """True if `member` is an image file.

    Raises:
        DataError: it is larger than MAX_FILE_BYTES.
    """
    _check_size(member.name, member.size)  # of any member: a packed one is unpacked to skip it
    return member.isfile() and member.name.lower().endswith(SUFFIXES)


def _check_size(name: str, file_bytes: int) -> None:
    if file_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{name} has {file_bytes:,} bytes; the limit is {MAX_FILE_BYTES:,}: leave it out"
        )


def _check_end(archive: tarfile.TarFile, path: Path) -> None:
    """Checks that a tar, all headers of which are read, ends with its mark, a block of zeros."""
    # tarfile takes an archive that is cut off for a smaller one.
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError(f"{path} has no end mark, so it was cut off: copy it again")


def drawn_images(count: int, size: int) -> UInt8[np.ndarray, "count size size 3"]:
    """Synthetic images, uint8 (`count`, S, S, 3): smooth colours with noise, the same every time.

    Graphs are compared on them where no data set is at hand.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves, phases = rng.uniform(0.5, 4, (count, 3, 2)), rng.uniform(0, 2 * np.pi, (count, 3))
    turns = waves[..., 0, None, None] * x + waves[..., 1, None, None] * y
    smooth = 127 + 100 * np.sin(2 * np.pi * turns + phases[..., None, None])
    noise = rng.normal(0, 12, (count, size, size, 3))
    return np.asarray(np.clip(np.moveaxis(smooth, 1, -1) + noise, 0, 255), np.uint8)
