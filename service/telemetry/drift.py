"""Drift without labels: how far the latest predictions are distributed from those of held-out
images.

A prediction leaves a record in its worker's ring: [time, confidence, familiarity, class], float64
(4,), NaN where it has no familiarity; the time is that of `time.monotonic`, one clock for all
processes of a Linux machine. A request costs nothing else. A scrape takes the latest WINDOW records
of all rings, those of ended workers included, and counts them in the bins of the bundle's
`Distribution`. So the window is the same however many workers share the requests, and however
unevenly.

The drift is the population stability index (PSI), Σ (p − q) ln(p / q) over the bins, of predictions
p and held-out images q: 0 if they are equal, without a largest value. docs/trust.md explains when
it misleads.
"""

import math
import mmap
import os
import struct
import time
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Integer

from service.bundle.manifest import Bins, Distribution

WINDOW = 1000  # predictions
LEAST = 500  # with fewer, chance alone moves the index
RECORD = struct.Struct("4d")
TIME, ASPECTS = 0, ("confidence", "familiarity", "classes")  # columns of a record
BYTES = WINDOW * RECORD.size
SUFFIX = ".window"
SMOOTHING = 0.5  # images added to every bin: an empty one would make the index infinite

Records = Float64[np.ndarray, "records 4"]


class Window:
    """The latest predictions of all workers that keep theirs in `folder`; a lone worker needs no
    folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._own = (
            mmap.mmap(-1, BYTES) if folder is None else _mapped(folder / f"{os.getpid()}{SUFFIX}")
        )
        self._offset = 0

    def add(self, confidence: float, familiarity: float | None, index: int) -> None:
        """Records a prediction of class `index`; `confidence` is its probability in 0…1."""
        score = math.nan if familiarity is None else familiarity
        # A reader may see half of this record and half of the one before: one of a thousand, which
        # moves no index.
        RECORD.pack_into(self._own, self._offset, time.monotonic(), confidence, score, index)
        self._offset = (self._offset + RECORD.size) % BYTES

    def latest(self) -> Records:
        """At most WINDOW records, in no order."""
        records = np.concatenate([ring.reshape(-1, RECORD.size // 8) for ring in self._rings()])
        written = records[records[:, TIME] > 0]
        return written[np.argsort(-written[:, TIME])[:WINDOW]]

    def _rings(self) -> list[Float64[np.ndarray, " values"]]:
        if self._folder is None:
            return [np.frombuffer(self._own)]
        return [np.fromfile(path) for path in self._folder.glob(f"*{SUFFIX}")]


def drift(records: Records, held_out: Distribution | None) -> dict[str, float]:
    """The index of each of ASPECTS; NaN with fewer than LEAST records, or where the bundle has
    nothing `held_out`.
    """
    if held_out is None or len(records) < LEAST:
        return dict.fromkeys(ASPECTS, math.nan)
    expected = (held_out.confidence, held_out.familiarity, held_out.classes)
    columns = zip(ASPECTS, expected, records.T[TIME + 1 :], strict=True)
    return {
        aspect: stability_index(counts(values, bins.edges), bins, held_out.pictures)
        for aspect, bins, values in columns
    }


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


def _mapped(path: Path) -> mmap.mmap:
    """BYTES in the file `path`, which is made if it is missing."""
    with path.open("a+b") as file:
        file.truncate(BYTES)
        return mmap.mmap(file.fileno(), BYTES)
