"""The seconds that decoding takes of one turn of the event loop.

A request may hold 64 images. Each small one is decoded on the event loop, which is quicker than a
thread; all of them together would hold it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_SECONDS = 0.010  # of one turn; what comes after it is decoded on threads


class LoopTime:
    """Seconds of `clock` spent within the running turn of the event loop."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._counting = False

    @property
    def is_left(self) -> bool:
        """True while the running turn has spent less than MOST_SECONDS."""
        return self._seconds < MOST_SECONDS

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Adds the time of the block, which does not await, to the running turn."""
        if not self._counting:
            self._counting = True
            # The callback runs in the next turn: this one runs only what is already due.
            asyncio.get_running_loop().call_soon(self._end_turn)
        started = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - started

    def _end_turn(self) -> None:
        self._seconds, self._counting = 0.0, False
