"""Explanations take turns with predictions: a map is computed in pieces, and between two pieces whoever predicts goes first.

While predictions come in, to any process, a piece takes about `PIECE_SECONDS` and the explanation then rests for `REST` times as long, so
that it has a fifth of a core at most and no prediction waits longer than for one piece. When nobody has asked for a prediction lately, an
explanation has pieces of as many rows as the engine takes, and all cores if no other process computes. Between pieces it is also seen
whether anyone still waits for the map.
"""

import time
from collections.abc import Callable

from service.errors import DeadlineExceeded, Unavailable
from service.runtime.engine import Engine
from service.workers.shared_state import QUIET_SECONDS, SharedState

PIECE_SECONDS, REST = 0.010, 4


class Turns:
    """The turns of one explanation; times are seconds of `time.perf_counter`."""

    def __init__(
        self, deadline: float, abandoned: Callable[[], bool], shared_state: SharedState
    ) -> None:
        self._deadline = deadline
        self._abandoned = abandoned
        self._shared_state = shared_state
        self._rows = 1
        self._began = 0.0

    def __call__(self, engine: Engine, left: int) -> int:
        """The rows of the next piece, at most `left`, after a rest if there must be one.

        Raises:
            DeadlineExceeded: the caller's time is over.
            Unavailable: the caller went away; nobody will read it.
        """
        now = time.perf_counter()
        if self._abandoned():
            raise Unavailable("the caller went away")
        if now > self._deadline:
            raise DeadlineExceeded(
                "deadline_ms was over before the map was computed: give more time, or ask for fewer steps or samples"
            )
        quiet = now - self._shared_state.last_prediction > QUIET_SECONDS
        engine.wide = quiet and self._shared_state.idle
        self._rows = min(left, engine.most_rows if quiet else self._rest(engine, now))
        self._began = time.perf_counter()
        return self._rows

    def _rest(self, engine: Engine, now: float) -> int:
        """Waits REST times as long as the last piece took; the rows that take PIECE_SECONDS."""
        if not self._began:
            return 1
        took = now - self._began
        time.sleep(REST * min(took, REST * PIECE_SECONDS))
        return max(1, min(engine.most_rows, round(self._rows * PIECE_SECONDS / took)))
