"""The pace of an explanation: it is computed in pieces, and predictions go first between two.

While predictions come in, to any worker, or brief explanations, a piece takes about
`PIECE_SECONDS`, and a rest of `REST` times as long follows it. An explanation then has a fifth of a
core at most, and no other waits longer than for one piece. Brief explanations run in the rest.
Otherwise a piece has as many rows as the engine takes, and all cores if no other worker computes.
"""

import math
import time
from collections.abc import Callable

from service.errors import DeadlineExceeded, Unavailable
from service.runtime.engine import Piece
from service.workers.shared_state import QUIET_SECONDS, SharedState

# Beside predictions an explanation computes for 1 / (1 + REST) of the time.
PIECE_SECONDS, REST = 0.010, 4
# For so long after a brief explanation pieces stay short: a caller with pauses will come again.
EXPECTING_SECONDS = 1.0


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return 0.0


class GaveWay(DeadlineExceeded):
    """The explanation gives way to another caller's: its time ends before its deadline."""


class TooSlow(DeadlineExceeded):
    """The explanation would not end in time, by the seconds of the part that is done."""


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
        hopeless: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.perf_counter,
        rows_at_once: int = 1,
        rest: Callable[[float], float] = _sleep,
        interjected_at: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        """Paces pieces of up to `most_rows`, until `deadline`, `cancelled()`, `pressed()` or
        `hopeless()`. On all cores `rows_at_once` take no longer than one.

        `rest` lets so many seconds pass, with a brief explanation if one waits, and returns the
        seconds that those took; one last ran at the time `interjected_at()`.
        """
        self.interjected_seconds = 0.0
        self._most_rows = most_rows
        self._deadline = deadline
        self._cancelled = cancelled
        self._pressed = pressed
        self._hopeless = hopeless
        self._shared_state = shared_state
        self._clock = clock
        self._rows_at_once = rows_at_once
        self._rest = rest
        self._interjected_at = interjected_at
        self._rows = 1
        self._piece_started: float | None = None

    def __call__(self, remaining: int) -> Piece:
        """The next piece of the `remaining` rows, after a rest where predictions come in.

        Raises:
            DeadlineExceeded: the deadline is over.
            Unavailable: the caller has left.
            GaveWay: another caller has waited long enough.
            TooSlow: the deadline will be over before the map is computed.
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
            raise GaveWay("other callers wait: retry, or ask for fewer steps or samples")
        if self._hopeless():
            raise TooSlow(
                "deadline_ms will be over before the map is computed: give more time, or ask for "
                "fewer steps or samples"
            )
        took = None if self._piece_started is None else now - self._piece_started
        others_at = max(self._shared_state.last_prediction, self._interjected_at())
        quiet = now - others_at > QUIET_SECONDS
        # A piece of a quiet moment may be long: its rest would hold up the explanation too much.
        seconds = 0.0 if quiet or took is None else REST * min(took, REST * PIECE_SECONDS)
        self.interjected_seconds += self._rest(seconds)
        all_cores = quiet and self._shared_state.idle
        expecting = now - self._interjected_at() <= EXPECTING_SECONDS
        short = expecting or not quiet
        # With fewer rows than run side by side a core would have nothing to do.
        least = self._rows_at_once if all_cores and not short else 1
        self._rows = min(remaining, max(least, self._next_rows(took, short=short)))
        self._piece_started = self._clock()
        return Piece(self._rows, all_cores)

    def _next_rows(self, took: float | None, *, short: bool) -> int:
        """The rows of the next piece, after one that `took` so many seconds."""
        if not short:
            return self._most_rows
        if took is None:
            return 1  # measures how long a row takes
        return max(1, min(self._most_rows, round(self._rows * PIECE_SECONDS / took)))
