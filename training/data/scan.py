"""The scan of a source: every image is decoded once before any is trained on.

It finds the files that are no images, takes a thumbnail of each image (for duplicates), and
computes the fingerprint. Pixels stay in memory where those of all images take up to HELD_SHARE of
the memory of the control group; else images are decoded again for each use.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from service.image.resize import Input, InputPixels, to_input
from training.data import DataError, Pixels
from training.data.files import Skipped
from training.data.images import (
    THUMBNAIL,
    Images,
    Stored,
    Thumbnail,
    decoded,
    fits,
    in_threads,
    thumbnail,
)
from training.data.layout import SPLITS, Placed


class Scanned(NamedTuple):
    """The images of a source by split, what was skipped, and the SHA-256 of all of them."""

    splits: Mapping[str, Images]
    skipped: list[Skipped]
    fingerprint: str


def scan(placed: Sequence[Placed], spec: Input, classes: Sequence[str]) -> Scanned:
    """Decodes all images and keeps those that can be decoded.

    `classes` are all labels. Labels become positions in them.
    """
    index = {label: number for number, label in enumerate(classes)}
    digest = hashlib.sha256("\n".join(classes).encode())
    held = fits(len(placed), spec.size)
    splits: dict[str, Images] = {}
    skipped: list[Skipped] = []
    # no bar without a terminal, nor for the other processes of torchrun
    hidden = True if os.environ.get("RANK", "0") != "0" else None
    with tqdm(total=len(placed), desc="reading", unit="image", disable=hidden) as bar:
        for split in SPLITS:
            part = [item for item in placed if item.split == split]
            if part:
                splits[split] = _images(part, spec, index, digest, skipped, bar, held=held)
    return Scanned(splits, skipped, digest.hexdigest())


def fingerprint(classes: Sequence[str], splits: Mapping[str, Images]) -> str:
    """The SHA-256 of classes, pixels and labels, which a scan computes as it goes."""
    digest = hashlib.sha256("\n".join(classes).encode())
    for split in SPLITS:
        if split in splits:
            digest.update(splits[split].pixels.tobytes())
            digest.update(splits[split].labels.tobytes())
    return digest.hexdigest()


def _images(
    placed: Sequence[Placed],
    spec: Input,
    index: Mapping[str, int],
    digest: "hashlib._Hash",
    skipped: list[Skipped],
    bar: "tqdm[Placed]",
    *,
    held: bool,
) -> Images:
    """The images of one split; adds to `digest` and `skipped`."""
    pixels = np.empty((len(placed) if held else 0, *spec.shape, 3), np.uint8)
    thumbnails = np.empty((len(placed), *THUMBNAIL, 3), np.uint8)
    aspects = np.empty(len(placed), np.float32)
    good: list[Placed] = []
    for item, seen in zip(placed, in_threads(lambda item: _see(item, spec), placed), strict=True):
        bar.update()
        if isinstance(seen, Skipped):
            skipped.append(seen)
            continue
        image, thumbnails[len(good)], aspects[len(good)] = seen
        # of decoded pixels, not of files: a folder and a tar of it are the same data
        digest.update(image.tobytes())
        if held:
            pixels[len(good)] = image
        good.append(item)
    labels = np.array([index[item.label] for item in good], np.int64)
    digest.update(labels.tobytes())
    files = [item.file for item in good]
    source: Pixels | Stored = pixels[: len(good)] if held else Stored(files, spec)
    names = np.array([str(file.name) for file in files], np.str_)
    return Images(source, labels, names, thumbnails[: len(good)], files, aspects[: len(good)])


def _see(item: Placed, spec: Input) -> tuple[InputPixels, Thumbnail, float] | Skipped:
    """The pixels, the thumbnail and the aspect of an image, or the reason why it is none."""
    name = str(item.file.name)
    if not item.file.size:
        return Skipped(name, "is empty")
    try:
        original = decoded(item.file)
    except DataError as error:
        return Skipped(name, str(error).removeprefix(f"{name}: "))
    pixels = to_input(original, spec)
    return pixels, thumbnail(pixels), original.shape[1] / original.shape[0]
