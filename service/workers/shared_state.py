"""What the processes of one service know of each other: when each last computed, how many connections it has, in memory that they share.

A process that computes alone may take all cores; several take one each. Nobody waits for anybody: a process writes its own numbers and reads
those of the others. Times are seconds of `time.perf_counter`, which is one clock for all processes of a Linux machine.
"""

import mmap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.workers.host import MOST_WORKERS

QUIET_SECONDS = 0.030  # who has not computed for so long is idle
LEASE_SECONDS = (
    10.0  # who has begun is at work for so long, unless it says sooner that it has ended
)
PREDICTING, EXPLAINING, ASKED = (
    0,
    1,
    2,
)  # columns: when either was computed; when a prediction was wanted for its own sake
CONNECTED = 3  # and one more, so that 0 is a process that takes none
COLUMNS = 4


class SharedState:
    """The view of process number `own`, counted from 0, on the numbers that all keep in `path`; a process alone needs no file."""

    def __init__(self, path: Path | None = None, own: int = 0) -> None:
        self._own = own
        self._told = np.zeros((MOST_WORKERS, COLUMNS)) if path is None else _shared(path)
        self._others = [part for part in (self._told[:own], self._told[own + 1 :]) if len(part)]

    @contextmanager
    def computing(self, what: int) -> Iterator[None]:
        """Notes that this process computes while what is inside runs, which is PREDICTING or EXPLAINING."""
        self._told[self._own, what] = time.perf_counter() + LEASE_SECONDS
        try:
            yield
        finally:
            self._told[self._own, what] = time.perf_counter()

    def predict(self) -> None:
        """Notes that someone wants a prediction of this process."""
        self._told[self._own, ASKED] = time.perf_counter()

    @property
    def idle(self) -> bool:
        """Whether no other process has computed lately: all cores are this one's."""
        latest = max(part[:, :ASKED].max() for part in self._others)
        return bool(time.perf_counter() - latest > QUIET_SECONDS)

    def connected(self, count: int | None) -> None:
        """Notes how many connections this process has; None if it takes no more."""
        self._told[self._own, CONNECTED] = 0 if count is None else count + 1

    @property
    def connections(self) -> float:
        """How many this process has; infinite if it does not know."""
        return float(self._told[self._own, CONNECTED] or np.inf) - 1

    @property
    def fewest_connections(self) -> float:
        """The least that another process has; infinite if there is none."""
        told = np.concatenate([part[:, CONNECTED] for part in self._others])
        return float(told[told > 0].min(initial=np.inf)) - 1

    @property
    def last_prediction(self) -> float:
        """When any process was last asked for a prediction."""
        return float(self._told[:, ASKED].max())


def _shared(path: Path) -> np.ndarray:
    """float64 (MOST_WORKERS, COLUMNS) in the file `path`, which is made if it is not there."""
    size = MOST_WORKERS * COLUMNS * 8
    with path.open("a+b") as file:
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.float64).reshape(
            MOST_WORKERS, COLUMNS
        )
