"""Numbers that the workers of one service share: when each computed last, how many connections it
has.

A worker that computes alone may take all cores; several take one each. Nobody waits for another: a
worker writes its own row of one array and reads the others. Times are seconds of
`time.perf_counter`, one clock for all processes of a Linux machine.
"""

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from service.workers.host import MOST_WORKERS

QUIET_SECONDS = 0.030  # a worker that has not computed for so long is idle
# A worker that began to compute counts as busy for so long, unless it notes the end before.
LEASE_SECONDS = 10.0
# Columns: when the worker last computed either, or until when it is busy;
PREDICTING, EXPLAINING = 0, 1
REQUESTED = 2  # when a caller last asked for a prediction that is no part of an explanation;
CONNECTED = 3  # its connections plus one, 0 where it accepts none;
STARTED = 4  # 1 once it accepts connections.
COLUMNS = 5


class SharedState:
    """The view of worker number `own`, from 0, on the array that all keep in the file `path`; a
    lone worker needs no file.
    """

    def __init__(self, path: Path | None = None, own: int = 0) -> None:
        self._path = path
        self._own = own
        self._rows = np.zeros((MOST_WORKERS, COLUMNS)) if path is None else _mapped(path)
        self._others = [part for part in (self._rows[:own], self._rows[own + 1 :]) if len(part)]

    @property
    def alone(self) -> bool:
        """True if this worker shares with no other."""
        return self._path is None

    @contextmanager
    def computing(self, what: int) -> Iterator[None]:
        """Marks this worker as busy within the block, which is PREDICTING or EXPLAINING."""
        before = self._rows[self._own, what]
        self._rows[self._own, what] = time.perf_counter() + LEASE_SECONDS
        try:
            yield
        finally:
            # Within another such block the worker stays busy.
            self._rows[self._own, what] = max(before, time.perf_counter())

    def predict(self) -> None:
        """Notes that a caller asks this worker for a prediction."""
        self._rows[self._own, REQUESTED] = time.perf_counter()

    @property
    def idle(self) -> bool:
        """True if no other worker has computed for QUIET_SECONDS: all cores are this one's."""
        latest = max(part[:, :REQUESTED].max() for part in self._others)
        return bool(time.perf_counter() - latest > QUIET_SECONDS)

    def connected(self, count: int | None) -> None:
        """Notes how many connections this worker has; None if it accepts no more."""
        self._rows[self._own, CONNECTED] = 0 if count is None else count + 1

    @property
    def connections(self) -> float:
        """The connections of this worker; infinite if they are not counted."""
        return float(self._rows[self._own, CONNECTED] or np.inf) - 1

    @property
    def fewest_connections(self) -> float:
        """The fewest connections that another worker has; infinite if there is none."""
        counts = np.concatenate([part[:, CONNECTED] for part in self._others])
        return float(counts[counts > 0].min(initial=np.inf)) - 1

    @property
    def last_prediction(self) -> float:
        """When a caller last asked any worker for a prediction."""
        return float(self._rows[:, REQUESTED].max())

    def start(self, workers: int) -> bool:
        """Notes that this worker accepts connections; True for the one that completes the number
        of `workers`, once.
        """
        self._rows[self._own, STARTED] = 1
        if self._path is None:
            return True
        if self._rows[:, STARTED].sum() < workers:
            return False
        # Two workers may see all others at the same moment; and one that replaces a dead worker
        # completes nothing.
        with suppress(FileExistsError):
            os.close(os.open(self._path.with_suffix(".complete"), os.O_CREAT | os.O_EXCL))
            return True
        return False


def _mapped(path: Path) -> np.ndarray:
    """float64 (MOST_WORKERS, COLUMNS) in the file `path`, which is made if it is missing."""
    size = MOST_WORKERS * COLUMNS * 8
    with path.open("a+b") as file:
        file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), np.float64).reshape(
            MOST_WORKERS, COLUMNS
        )
