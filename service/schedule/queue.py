"""The queue of a lane: admission, places, backlog and deadlines.

A queue holds at most `capacity` items, with the places that are reserved for images still being
prepared. Its backlog is the seconds that all waiting and running items are expected to take. An
item is rejected at once, with the time after which a retry makes sense, if the queue is full or
if the backlog does not fit in front of its deadline. At its deadline an item gets
`DeadlineExceeded`, and its place is free; if its caller leaves, it is dropped. One timer,
for the earliest deadline, serves all items.

Times are seconds of the queue's clock, `time.perf_counter` by default, which the deadlines share.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from prometheus_client import Counter, Gauge, Histogram

from service.errors import DeadlineExceeded, RequestError, TooManyRequests, Unavailable
from service.schedule.timing import RecentMean
from service.telemetry.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

FULL, LATE, STOPPING = "queue_full", "deadline", "stopping"  # reasons of a rejection, as labels


class Share:
    """The part of one queue in a `gauge` that the queues of all models add up to."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._value = 0

    def set(self, value: int) -> None:
        """Makes the part `value`."""
        self._gauge.inc(value - self._value)
        self._value = value


class QueueMetrics(NamedTuple):
    """The metrics of one queue: its depth and limit, items in flight, rejections, batch sizes."""

    depth: Share
    limit: Share
    in_flight: Share
    rejected: Mapping[str, Counter]
    batch_size: Histogram

    @classmethod
    def of(cls, metrics: Metrics, lane: str) -> "QueueMetrics":
        """The share of `metrics` that is labelled with `lane`."""
        return cls(
            Share(metrics.queue_depth.labels(lane)),
            Share(metrics.queue_limit.labels(lane)),
            Share(metrics.in_flight.labels(lane)),
            {reason: metrics.rejected.labels(lane, reason) for reason in (FULL, LATE, STOPPING)},
            metrics.batch_size.labels(lane),
        )


class Done(NamedTuple, Generic[Result]):
    """A result, with the seconds that its item waited, those that its batch ran, and the rows of
    that batch.
    """

    result: Result
    queue_seconds: float
    run_seconds: float
    rows: int = 1


@dataclass(eq=False)
class Ticket(Generic[Item, Result]):
    """One item in a queue: when it `joined`, its `deadline` and its expected seconds, `cost`.

    `least` are those of its cheapest answer, where there are several, as it joined. `caller` is a
    key that tickets of one caller share.
    """

    item: Item
    deadline: float
    cost: float
    joined: float
    future: "asyncio.Future[Done[Result]]"
    caller: str = ""
    least: float = 0.0

    @property
    def settled(self) -> bool:
        """True once no answer is of use: the caller has left, or has got its result or error."""
        return self.future.done()

    def resolve(
        self, result: Result | Exception, started: float, run_seconds: float, rows: int = 1
    ) -> None:
        """Gives the caller its result, or raises it there; call it on the caller's event loop."""
        # A cancelled future raises when it is set, and the rest of the batch would wait for ever.
        if self.future.done():
            return
        if isinstance(result, RequestError):
            result = result.with_traceback(None)  # the lane's frames hold the ticket: a cycle
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(Done(result, started - self.joined, run_seconds, rows))


class Queue(Generic[Item, Result]):
    """Tickets in the order of their arrival; safe for one event loop and one lane thread."""

    def __init__(
        self,
        name: str,
        *,
        capacity: int,
        most_rows: int,
        metrics: QueueMetrics,
        cost: Callable[[Item], float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Makes a queue of `capacity` places that yields batches of up to `most_rows` tickets.

        `cost` forecasts the seconds of an item; without it, the recent mean is the forecast.
        """
        self.clock = clock
        self._name = name
        self._capacity = capacity
        self._most_rows = most_rows
        self._metrics = metrics
        self._full = f"the {name} queue is full (limit {capacity}): retry later"
        self._mean = RecentMean()
        self._cost: Callable[[Item], float] = cost or (lambda _item: self._mean.seconds)
        self._waiting: deque[Ticket[Item, Result]] = deque()
        self._running: Sequence[Ticket[Item, Result]] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline = math.inf
        self._reserved = 0
        self._in_flight = 0
        self._backlog_seconds = 0.0
        self._changed = threading.Condition()
        self._closed = False
        metrics.limit.set(capacity)

    @property
    def waiting(self) -> int:
        """The number of tickets that wait."""
        return len(self._waiting)

    @property
    def backlog_seconds(self) -> float:
        """The seconds that all waiting and running tickets are expected to take."""
        return self._backlog_seconds

    def rejection(self, ahead: int = 0) -> TooManyRequests | None:
        """A counted 429 if the queue is full, else None; `ahead` are admitted and not yet here."""
        if len(self._waiting) + self._reserved + ahead < self._capacity:
            return None
        self._metrics.rejected[FULL].inc()
        return TooManyRequests(self._full, _retry_after(self._backlog_seconds), FULL)

    def admit(self) -> None:
        """Checks for a free place.

        Raises:
            TooManyRequests: the queue is full.
        """
        if error := self.rejection():
            raise error

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Holds a place while an item is prepared; the place is free again when the item joins.

        Raises:
            TooManyRequests: the queue is full.
        """
        # An item that could not wait afterwards is not worth preparing.
        self.admit()
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    def join(self, item: Item, deadline: float, caller: str = "") -> Ticket[Item, Result]:
        """Adds `item`, from a coroutine; `result` waits for its ticket.

        Raises:
            TooManyRequests: the queue is full.
            Unavailable: the queue is closed, or the backlog does not fit before `deadline`.
        """
        now, loop = self.clock(), asyncio.get_running_loop()
        ticket: Ticket[Item, Result] = Ticket(
            item, deadline, 0.0, now, loop.create_future(), caller
        )
        with self._changed:
            self._check(ticket)
            self._waiting.append(ticket)
            self._in_flight += 1
            self._backlog_seconds += ticket.cost
            self._metrics.depth.set(len(self._waiting))
            self._metrics.in_flight.set(self._in_flight)
            self._changed.notify()
        if deadline < self._timer_deadline:
            self._set_timer(loop, deadline)
        return ticket

    async def result(self, ticket: Ticket[Item, Result]) -> Done[Result]:
        """The result of `ticket`; a caller that is cancelled meanwhile frees its place.

        Raises:
            DeadlineExceeded: the deadline passed while the ticket waited or ran.
        """
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._leave(ticket)
            raise
        finally:
            # Its exception holds this frame, which would hold it: a cycle with the caller's image.
            del ticket

    def wait(self) -> bool:
        """Blocks until tickets wait or the queue is closed; False if it is closed and empty."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            return bool(self._waiting)

    def take(self) -> list[Ticket[Item, Result]]:
        """Pops up to `most_rows` live tickets; expired ones get `DeadlineExceeded`.

        The tickets stay in flight, and in the backlog, until `complete`.
        """
        with self._changed:
            size = min(self._most_rows, len(self._waiting))
            batch = [self._pop() for _ in range(size)]
            self._metrics.depth.set(len(self._waiting))
            # The timer may be late where a batch holds the event loop.
            now = self.clock()
            live = [t for t in batch if not self._expired(t, now) and not t.settled]
            self._running = live
        if len(live) < len(batch):
            self._forget([ticket for ticket in batch if ticket not in live])
        return live

    def complete(self, batch: Sequence[Ticket[Item, Result]], run_seconds: float) -> None:
        """Takes a finished `batch` out of the backlog, and its mean item into the forecast."""
        self._metrics.batch_size.observe(len(batch))
        self._mean.add(run_seconds / len(batch))
        with self._changed:
            self._running = [ticket for ticket in self._running if ticket not in batch]
            for ticket in batch:
                self._ran(ticket, run_seconds / len(batch))
            self._forget(batch)

    def close(self) -> None:
        """Rejects all later items; waiting ones stay."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _check(self, ticket: Ticket[Item, Result]) -> None:
        if self._closed:
            self._metrics.rejected[STOPPING].inc()
            raise Unavailable("the service is stopping: ask another replica", reason=STOPPING)
        self.admit()
        remaining = ticket.deadline - ticket.joined
        needed = self._needed_seconds(ticket, remaining)
        if needed > remaining:
            self._metrics.rejected[LATE].inc()
            raise Unavailable(
                f"the {self._name} queue needs about {needed:.2g} s, and deadline_ms leaves "
                f"{max(0.0, remaining):.2g} s: retry later, or give more time",
                _retry_after(self._backlog_seconds),
                LATE,
            )

    def _needed_seconds(self, ticket: Ticket[Item, Result], _remaining: float) -> float:
        """Notes the cost of a `ticket` that joins; the seconds until it is answered."""
        ticket.cost = self._cost(ticket.item)
        return self._backlog_seconds + ticket.cost

    def _pop(self) -> Ticket[Item, Result]:
        """Removes the ticket that goes next."""
        return self._waiting.popleft()

    def _ran(self, ticket: Ticket[Item, Result], seconds: float) -> None:
        """Notes that `ticket` has taken `seconds` of the lane."""

    def _set_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_deadline = deadline
        self._timer = (
            loop.call_later(max(0.0, deadline - self.clock()), self._expire, loop)
            if deadline < math.inf
            else None
        )

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the wait of all tickets that are late; sets the timer for the next deadline."""
        with self._changed:
            now = self.clock()
            late = [ticket for ticket in self._waiting if self._expired(ticket, now)]
            for ticket in late:
                self._waiting.remove(ticket)
            self._metrics.depth.set(len(self._waiting))
            running = [t for t in self._running if not self._expired(t, now, "lane")]
            following = min((t.deadline for t in (*self._waiting, *running)), default=math.inf)
        self._forget(late)
        self._set_timer(loop, following)

    def _leave(self, ticket: Ticket[Item, Result]) -> None:
        with self._changed:
            # A ticket that runs already is forgotten with its batch.
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._forget([ticket])
                self._metrics.depth.set(len(self._waiting))

    def _forget(self, tickets: Sequence[Ticket[Item, Result]]) -> None:
        """Takes `tickets` out of the backlog and of the items in flight."""
        with self._changed:
            self._in_flight -= len(tickets)
            cost = sum(ticket.cost for ticket in tickets)
            self._backlog_seconds = max(0.0, self._backlog_seconds - cost)
            self._metrics.in_flight.set(self._in_flight)

    def _expired(self, ticket: Ticket[Item, Result], now: float, place: str = "queue") -> bool:
        """True if the deadline of `ticket` is over; its caller then gets the error."""
        if now <= ticket.deadline:
            return False
        error = DeadlineExceeded(
            f"{now - ticket.joined:.2g} s passed in the {self._name} {place} and deadline_ms is "
            "over: retry later, or give more time"
        )
        # A lane thread may not touch a future of the event loop.
        ticket.future.get_loop().call_soon_threadsafe(ticket.resolve, error, now, 0.0)
        return True


def _retry_after(seconds: float) -> int:
    """`seconds` as a Retry-After header (RFC 9110, 10.2.3): whole, rounded up, never 0."""
    return max(1, math.ceil(seconds))
