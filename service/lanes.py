"""Bounded lanes between the event loop and the device: each has one thread, a queue with a bound, and answers every caller by itself.

A lane gathers what waits, up to `most_rows` items, and runs them as one batch; it never waits for more. If a batch raises, its items
run again one by one, so that a bad one fails alone.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import TooManyRequests, Unavailable
from service.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A result, and how long it waited and ran, in seconds."""

    result: Result
    queue_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Done[Result]]"
    loop: asyncio.AbstractEventLoop
    since: float


class Lane(Generic[Item, Result]):
    """`work` turns a list of items into the list of their results, on the lane's own thread."""

    def __init__(
        self, name: str, work: Callable[[list[Item]], Sequence[Result]], *, most_rows: int, capacity: int, metrics: Metrics
    ) -> None:
        """At most `capacity` items wait, at most `most_rows` run together."""
        self.name = name
        self._work = work
        self._most_rows = most_rows
        self._capacity = capacity
        self._metrics = metrics
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=f"lane {name}", daemon=True)
        self._thread.start()

    async def run(self, item: Item) -> Done[Result]:
        """The result of `item`.

        Raises:
            TooManyRequests: `capacity` items wait already.
            Unavailable: the lane is closed.
        """
        loop = asyncio.get_running_loop()
        entry: _Waiting[Item, Result] = _Waiting(item, loop.create_future(), loop, time.perf_counter())
        with self._changed:
            if self._closed:
                raise Unavailable("the service is stopping: ask another replica")
            if len(self._waiting) >= self._capacity:
                self._metrics.rejected.labels(self.name, "queue_full").inc()
                raise TooManyRequests(
                    f"{len(self._waiting)} pictures wait in the {self.name} lane, which is its limit: ask again later"
                )
            self._waiting.append(entry)
            self._metrics.queue_depth.labels(self.name).set(len(self._waiting))
            self._changed.notify()
        return await entry.future

    def close(self) -> None:
        """Finishes what waits, then ends the thread; later callers are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        while batch := self._take():
            started = time.perf_counter()
            results = self._attempt(batch)
            ran = time.perf_counter() - started
            for entry, result in zip(batch, results, strict=True):
                entry.loop.call_soon_threadsafe(_hand_over, entry.future, result, started - entry.since, ran)

    def _take(self) -> list[_Waiting[Item, Result]]:
        """What waits, up to `most_rows`; nothing when the lane is closed and empty. Whoever gave up is left out."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                batch = [self._waiting.popleft() for _ in range(min(self._most_rows, len(self._waiting)))]
                self._metrics.queue_depth.labels(self.name).set(len(self._waiting))
                wanted = [entry for entry in batch if not entry.future.cancelled()]
                if wanted or self._closed:
                    return wanted

    def _attempt(self, batch: list[_Waiting[Item, Result]]) -> Sequence[Result | Exception]:
        self._metrics.batch_size.labels(self.name).observe(len(batch))
        self._metrics.in_flight.labels(self.name).set(len(batch))
        try:
            return self._work([entry.item for entry in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to a caller, whatever it is
            return [error] if len(batch) == 1 else [self._attempt([entry])[0] for entry in batch]
        finally:
            self._metrics.in_flight.labels(self.name).set(0)


def _hand_over(future: "asyncio.Future[Done[Result]]", result: Result | Exception, queued: float, ran: float) -> None:
    if future.done():  # its caller gave up
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(Done(result, queued, ran))
