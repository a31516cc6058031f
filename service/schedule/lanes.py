"""Two ways to run a queue: on the event loop, and on a thread.

A lane runs what waits, up to the queue's `most_rows` items, as one batch; it never waits for a
batch to fill. If a batch raises, its items run again one by one, so that a bad one fails alone.
"""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from service.schedule.fairness import FairQueue
from service.schedule.queue import Done, Item, Queue, Result, Ticket

# Turns of the event loop before a batch: one to read the connections, one to begin the requests,
# one to decode their images.
TURNS = 3

Work = Callable[[list[Ticket[Item, Result]]], Sequence[Result | Exception]]


@dataclass(frozen=True)
class Finished(Generic[Item, Result]):
    """A batch that ran, with a result or an exception for each ticket; times are seconds."""

    batch: list[Ticket[Item, Result]]
    results: Sequence[Result | Exception]
    started: float
    run_seconds: float

    def deliver(self) -> None:
        """Gives every caller its own result; call it on their event loop."""
        for ticket, result in zip(self.batch, self.results, strict=True):
            ticket.resolve(result, self.started, self.run_seconds, len(self.batch))


class BatchRunner(Generic[Item, Result]):
    """Runs `work` on the batches of `queue`; `work` may return an exception as a result."""

    def __init__(self, queue: Queue[Item, Result], work: Work[Item, Result]) -> None:
        self._queue = queue
        self._work = work

    def run_next(self) -> Finished[Item, Result] | None:
        """Runs the next batch; None if every ticket in it has expired or was left."""
        batch = self._queue.take()
        return self.run(batch) if batch else None

    def run(self, batch: list[Ticket[Item, Result]]) -> Finished[Item, Result]:
        """Runs a batch that was taken from the queue."""
        started = self._queue.clock()
        results = self._attempt(batch)
        run_seconds = self._queue.clock() - started
        self._queue.complete(batch, run_seconds)
        return Finished(batch, results, started, run_seconds)

    def _attempt(self, batch: list[Ticket[Item, Result]]) -> Sequence[Result | Exception]:
        try:
            return self._work(batch)
        except Exception as error:  # noqa: BLE001 - it belongs to a caller, whatever it is
            if len(batch) == 1:
                return [error]
            return [self._attempt([ticket])[0] for ticket in batch]


class LoopLane(Generic[Item, Result]):
    """A lane on the event loop, for work of a few milliseconds."""

    def __init__(
        self,
        queue: Queue[Item, Result],
        work: Work[Item, Result],
        callers: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Makes a lane; `callers` is the number of connections, so of items that may yet join."""
        self.queue = queue
        self._runner = BatchRunner(queue, work)
        self._callers = callers
        self._scheduled = False

    async def run(self, item: Item, deadline: float, caller: str = "") -> Done[Result]:
        """The result of `item`.

        Raises:
            TooManyRequests: the queue is full.
            Unavailable: the lane is closed, or the backlog does not fit before `deadline`.
            DeadlineExceeded: `deadline` passed while the item waited or ran.
        """
        ticket = self.queue.join(item, deadline, caller)
        self._schedule(ticket.future.get_loop())
        try:
            return await self.queue.result(ticket)
        finally:
            del ticket  # as in `Queue.result`

    def close(self) -> None:
        """Finishes what waits; later items are rejected."""
        self.queue.close()
        while self.queue.waiting:
            self._run_next()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn, loop, TURNS - 1)

    def _turn(self, loop: asyncio.AbstractEventLoop, remaining: int) -> None:
        """Runs a batch when every caller waits, or when no turn of the loop remains."""
        # Requests that have just arrived come into the batch; a lone caller waits for nobody.
        if remaining and self.queue.waiting < self._callers():
            loop.call_soon(self._turn, loop, remaining - 1)
            return
        self._scheduled = False
        self._run_next()
        if self.queue.waiting:
            self._schedule(loop)

    def _run_next(self) -> None:
        if finished := self._runner.run_next():
            finished.deliver()


class ThreadLane(Generic[Item, Result]):
    """A lane on a thread of its own, for work that would block the event loop."""

    def __init__(self, queue: Queue[Item, Result], work: Work[Item, Result], name: str) -> None:
        """Makes a lane and starts its thread, `lane NAME`."""
        self.queue = queue
        self._runner = BatchRunner(queue, work)
        self._thread = threading.Thread(target=self._serve, name=f"lane {name}", daemon=True)
        self._thread.start()

    async def run(self, item: Item, deadline: float, caller: str = "") -> Done[Result]:
        """The result of `item`.

        Raises:
            TooManyRequests: the queue is full.
            Unavailable: the lane is closed, or the backlog does not fit before `deadline`.
            DeadlineExceeded: `deadline` passed while the item waited or ran.
        """
        return await self.queue.result(self.queue.join(item, deadline, caller))

    def close(self) -> None:
        """Finishes what waits and ends the thread; later items are rejected."""
        self.queue.close()
        self._thread.join()

    def _serve(self) -> None:
        while self.queue.wait():
            if finished := self._runner.run_next():
                _deliver(finished)


class InterjectingLane(ThreadLane[Item, Result]):
    """A lane on a thread; brief work runs between two pieces of long work."""

    queue: FairQueue[Item, Result]

    def interject(self, seconds: float) -> float:
        """Runs a brief ticket if one waits, and those that come within `seconds`; for `work`.

        Returns the seconds that they took.
        """
        took, until = 0.0, self.queue.clock() + seconds
        while (ticket := self.queue.interject(until)) is not None:
            finished = self._runner.run([ticket])
            took += finished.run_seconds
            _deliver(finished)
            if self.queue.clock() > until:
                break
        return took


def _deliver(finished: Finished[Item, Result]) -> None:
    # Futures may be set on their own event loop alone.
    loop = finished.batch[0].future.get_loop()
    loop.call_soon_threadsafe(finished.deliver)
