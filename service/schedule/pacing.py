"""The pace of an explanation: it is computed in pieces, and predictions go first between two.

While predictions come in, to any worker, a piece takes about `PIECE_SECONDS` and a rest of `REST`
times as long follows it. An explanation then has a fifth of a core at most, and no prediction
waits longer than for one piece. Without predictions a piece has as many rows as the engine takes,
and all cores if no other worker computes.
"""

import time
from collections.abc import Callable

from service.errors import DeadlineExceeded, Unavailable
from service.runtime.engine import Piece
from service.workers.shared_state import QUIET_SECONDS, SharedState

# Beside predictions an explanation computes for 1 / (1 + REST) of the time.
PIECE_SECONDS, REST = 0.010, 4


class GaveWay(Exception):
    """The explanation gives way to another caller's."""


class Pacer:
    """The pace of one explanation; times are seconds of `clock`."""

    def __init__(
        self,
        most_rows: int,
        deadline: float,
        cancelled: Callable[[], bool],
        shared_state: SharedState,
        *,
        pressed: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Paces pieces of up to `most_rows`, until `deadline`, `cancelled()` or `pressed()`."""
        self._most_rows = most_rows
        self._deadline = deadline
        self._cancelled = cancelled
        self._pressed = pressed
        self._shared_state = shared_state
        self._clock = clock
        self._sleep = sleep
        self._rows = 1
        self._piece_started: float | None = None

    def __call__(self, remaining: int) -> Piece:
        """The next piece of the `remaining` rows, after a rest where predictions come in.

        Raises:
            DeadlineExceeded: the deadline is over.
            Unavailable: the caller has left.
            GaveWay: another caller has waited long enough.
        """
        now = self._clock()
        if self._cancelled():
            raise Unavailable("the caller has left")
        if now > self._deadline:
            raise DeadlineExceeded(
                "deadline_ms was over before the map was computed: give more time, or ask for "
                "fewer steps or samples"
            )
        if self._pressed():
            raise GaveWay
        quiet = now - self._shared_state.last_prediction > QUIET_SECONDS
        all_cores = quiet and self._shared_state.idle
        self._rows = min(remaining, self._most_rows if quiet else self._rest(now))
        self._piece_started = self._clock()
        return Piece(self._rows, all_cores)

    def _rest(self, now: float) -> int:
        """Sleeps REST times as long as the last piece took; the rows that take PIECE_SECONDS."""
        if self._piece_started is None:
            return 1  # measures how long a row takes
        took = now - self._piece_started
        # A piece of a quiet moment may be long: its rest would hold up the explanation too much.
        self._sleep(REST * min(took, REST * PIECE_SECONDS))
        return max(1, min(self._most_rows, round(self._rows * PIECE_SECONDS / took)))
