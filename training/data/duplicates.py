"""Duplicates: images of one split that look like an image of another.

Two images look alike if their difference hashes differ in at most HASH_BITS of 64, and their
thumbnails by at most LEVELS of 255 in the mean. The difference hash (Krawetz, "Kind of Like That",
2013) has a bit for each of 8 × 8 pairs of neighbours in a thumbnail of 8 × 9 pixels: set where the
right one is brighter. It survives another size and another JPEG; plain images share it, hence the
thumbnails. All is of images as the network sees them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from training.data.images import Images, Thumbnails, thumbnail

# Among 300 photographs of clothing they find all that were saved in a third of the size, as JPEG of
# quality 30 or without 1 % on each side, 263 made 5 % brighter, 135 without 3 % on each side, and
# no two photographs. From 8 levels on, two shirts on one bed are a pair.
HASH_BITS, LEVELS = 8, 7
CHUNK = 256  # images that are compared with all others at once
MOST_COMPARED = 100  # thumbnails for each image: all images could have one hash


class Duplicates(NamedTuple):
    """The positions of images that have a duplicate elsewhere, `of` its position there.

    `equal` counts those that are equal in every pixel.
    """

    positions: Int64[np.ndarray, " found"]
    of: Int64[np.ndarray, " found"]
    equal: int


def between(images: Images, others: Images) -> Duplicates:
    """The `images` that look like one of `others`, each with the one most like it."""
    ours, theirs = _thumbnails(images), _thumbnails(others)
    our_hashes, their_hashes = _hashes(ours), _hashes(theirs)
    pairs = []
    for start in range(0, len(ours), CHUNK):
        chunk = our_hashes[start : start + CHUNK, None]
        near = np.bitwise_count(chunk ^ their_hashes[None]) <= HASH_BITS
        for row in np.flatnonzero(near.any(1)):
            candidates = np.flatnonzero(near[row])[:MOST_COMPARED]
            difference = np.abs(ours[start + row].astype(int) - theirs[candidates]).mean((1, 2, 3))
            if difference.min() <= LEVELS:
                pairs.append((start + int(row), int(candidates[difference.argmin()])))
    positions, of = np.array(pairs, np.int64).reshape(-1, 2).T
    same = (images.rows(positions) == others.rows(of)).all((1, 2, 3))
    return Duplicates(positions, of, int(same.sum()))


def _hashes(thumbnails: Thumbnails) -> UInt64[np.ndarray, " count"]:
    grey = thumbnails.sum(3, dtype=int)
    brighter = grey[:, :, 1:] > grey[:, :, :-1]
    return np.packbits(brighter.reshape(len(grey), 64), axis=1).view(np.uint64)[:, 0]


def _thumbnails(images: Images) -> Thumbnails:
    if len(images.thumbnails):
        return images.thumbnails
    return np.stack([thumbnail(image) for image in images.pixels])
