"""What the processes of one service know of each other: when each last computed, in memory that they share.

A process that computes alone may take all cores; several take one each. Nobody waits for anybody: a process writes its own times and reads
those of the others. Times are seconds of `time.perf_counter`, which is one clock for all processes of a Linux machine.
"""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.settings import MOST_WORKERS

QUIET_SECONDS = 0.030  # who has not computed for so long is idle
LEASE_SECONDS = 10.0  # who has begun is at work for so long, unless it says sooner that it has ended
PREDICTING, EXPLAINING, ASKED = 0, 1, 2  # columns: when either was computed; when a prediction was wanted for its own sake
COLUMNS = 3


class Neighbours:
    """The view of process number `own`, counted from 0, on the times that all keep in `path`; a process alone needs no file."""

    def __init__(self, path: Path | None = None, own: int = 0) -> None:
        self._own = own
        self._times = np.zeros((MOST_WORKERS, COLUMNS)) if path is None else _shared(path)
        self._others = np.arange(MOST_WORKERS) != own

    @contextmanager
    def computing(self, what: int) -> Iterator[None]:
        """Notes that this process computes while what is inside runs, which is PREDICTING or EXPLAINING."""
        self._times[self._own, what] = time.perf_counter() + LEASE_SECONDS
        try:
            yield
        finally:
            self._times[self._own, what] = time.perf_counter()

    def predict(self) -> None:
        """Notes that someone wants a prediction of this process."""
        self._times[self._own, ASKED] = time.perf_counter()

    @property
    def idle(self) -> bool:
        """Whether no other process has computed lately: all cores are this one's."""
        return bool(time.perf_counter() - self._times[self._others, :ASKED].max() > QUIET_SECONDS)

    @property
    def last_prediction(self) -> float:
        """When any process was last asked for a prediction."""
        return float(self._times[:, ASKED].max())


def _shared(path: Path) -> np.ndarray:
    """float64 (MOST_WORKERS, COLUMNS) in the file `path`, which is made if it is not there."""
    size = MOST_WORKERS * COLUMNS * 8
    with path.open("a+b") as file:
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.float64).reshape(MOST_WORKERS, COLUMNS)
