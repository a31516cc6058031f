"""Drift without labels: how far the latest predictions, or their maps, are distributed from those
of held-out images.

A prediction leaves a record in its worker's ring of PREDICTIONS: its time and its aspects, float64
(4,), NaN where it has no familiarity. A map that can be compared leaves one in the ring of MAPS.
The time is that of `time.monotonic`, one clock for all processes of a Linux machine. A request
costs nothing else. A scrape takes the latest WINDOW records of all rings of a kind, those of ended
workers included, and counts them in the bins of the bundle's distribution. So the window is the
same however many workers share the requests, and however unevenly.

The drift is the population stability index (PSI), Σ (p − q) ln(p / q) over the bins, of predictions
p and held-out images q: 0 if they are equal, without a largest value. docs/trust.md explains when
it misleads.
"""

import glob
import math
import mmap
import os
import struct
import time
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Integer

from service.bundle.manifest import Bins, Distribution, MapDistribution

WINDOW = 1000  # records
LEAST = 500  # with fewer, chance alone moves the index
SMOOTHING = 0.5  # images added to every bin: an empty one would make the index infinite

Records = Float64[np.ndarray, "records columns"]  # the time, and the aspects


class Watched(NamedTuple):
    """What is watched: a `kind` of record, and its `aspects` in their order."""

    kind: str
    aspects: tuple[str, ...]


PREDICTIONS, MAPS = (
    Watched(kind, tuple(field.name for field in fields(held_out)[1:]))  # after `pictures`
    for kind, held_out in (("predictions", Distribution), ("maps", MapDistribution))
)


class Window:
    """The latest records of one kind and of one `model`, of all workers that keep theirs in
    `folder`; a lone worker needs no folder.
    """

    def __init__(
        self, folder: Path | None = None, watched: Watched = PREDICTIONS, model: str = ""
    ) -> None:
        self.watched = watched
        self._folder, self._suffix = folder, f".{model}.{watched.kind}"
        self._record = struct.Struct(f"{1 + len(watched.aspects)}d")
        self._bytes = WINDOW * self._record.size
        self._own = (
            mmap.mmap(-1, self._bytes)
            if folder is None
            else _mapped(folder / f"{os.getpid()}{self._suffix}", self._bytes)
        )
        self._offset = 0

    def add(self, *aspects: float) -> None:
        """Records the aspects of a prediction or of a map, in their order."""
        # A reader may see half of this record and half of the one before: one of a thousand, which
        # moves no index.
        self._record.pack_into(self._own, self._offset, time.monotonic(), *aspects)
        self._offset = (self._offset + self._record.size) % self._bytes

    def latest(self) -> Records:
        """At most WINDOW records, in no order."""
        columns = self._record.size // 8
        records = np.concatenate([ring.reshape(-1, columns) for ring in self._rings()])
        written = records[records[:, 0] > 0]
        return written[np.argsort(-written[:, 0])[:WINDOW]]

    def _rings(self) -> list[Float64[np.ndarray, " values"]]:
        if self._folder is None:
            return [np.frombuffer(self._own)]
        return [np.fromfile(path) for path in self._folder.glob(f"*{glob.escape(self._suffix)}")]


def drift(
    records: Records,
    held_out: Distribution | MapDistribution | None,
    watched: Watched = PREDICTIONS,
) -> dict[str, float]:
    """The index of each aspect; NaN with fewer than LEAST records, or where the bundle has nothing
    `held_out`.
    """
    if held_out is None or len(records) < LEAST:
        return dict.fromkeys(watched.aspects, math.nan)
    indices = {}
    for aspect, values in zip(watched.aspects, records.T[1:], strict=True):
        bins: Bins = getattr(held_out, aspect)
        counted = counts(values, bins.edges)
        indices[aspect] = stability_index(counted, bins, held_out.pictures)
    return indices


def counts(
    values: Float64[np.ndarray, " values"], edges: tuple[float, ...]
) -> Integer[np.ndarray, " bins"]:
    """The number of values in each bin; one on an edge is in the bin above."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def stability_index(counted: Integer[np.ndarray, " bins"], held_out: Bins, images: int) -> float:
    """The PSI of `counted` against `held_out`, whose shares are of so many `images`."""
    now, then = counted + SMOOTHING, np.array(held_out.shares) * images + SMOOTHING
    p, q = now / now.sum(), then / then.sum()
    return float(np.sum((p - q) * np.log(p / q)))


def _mapped(path: Path, length: int) -> mmap.mmap:
    """So many bytes in the file `path`, which is made if it is missing."""
    with path.open("a+b") as file:
        file.truncate(length)
        return mmap.mmap(file.fileno(), length)
