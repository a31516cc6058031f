"""Bounded lanes between the event loop and the device: a queue with a bound, batches, and for every caller an answer of its own.

A lane gathers what waits, up to `most_rows` items, and runs them as one batch; it never waits for more. If a batch raises, its items
run again one by one, so that a bad one fails alone. A lane works on a thread of its own, or, where the work is quick, on the event loop:
then no thread must wake another, which takes as long as the work, and whoever is at the door comes into the batch.

Nobody waits in vain. Whoever cannot be answered before its deadline is refused when it comes, with the time after which another try
makes sense; whose deadline passes in the queue is told then; whose caller goes away leaves the queue at once. Times are seconds of
`time.perf_counter`.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from service.errors import DeadlineExceeded, TooManyRequests, Unavailable
from service.telemetry.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

RECENT = 0.2  # weight of the latest batch in the mean time of an item
TURNS = 3  # of the event loop before a batch begins on it: connections are read, requests begun, images decoded


class Done(NamedTuple, Generic[Result]):
    """A result, and how long it waited and ran, in seconds."""

    result: Result
    queue_seconds: float
    run_seconds: float


@dataclass(eq=False)
class Ticket(Generic[Item, Result]):
    """One caller's place: `item`, its `deadline`, and the seconds that it is expected to run."""

    item: Item
    deadline: float
    cost: float
    future: "asyncio.Future[Done[Result]]"
    loop: asyncio.AbstractEventLoop
    since: float

    @property
    def abandoned(self) -> bool:
        """Whether its caller gave up."""
        return self.future.cancelled()


class Lane(Generic[Item, Result]):
    """`work` turns a list of tickets into the list of their results; an exception may stand for a result."""

    def __init__(
        self,
        name: str,
        work: Callable[[list[Ticket[Item, Result]]], Sequence[Result | Exception]],
        *,
        most_rows: int,
        capacity: int,
        metrics: Metrics,
        cost: Callable[[Item], float] | None = None,
        on_loop: bool = False,
        callers: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """At most `capacity` items wait, at most `most_rows` run together. `cost` foretells the seconds of an item; without it the
        mean of the latest is taken. `on_loop` is for work of a few milliseconds; how many `callers` there are says whether more may come.
        """
        self.name = name
        self._work = work
        self._most_rows = most_rows
        self._capacity = capacity
        self._full = (
            f"{capacity} images wait in the {name} lane, which is its limit: ask again later"
        )
        self._mean_seconds: float = 0.0
        self._cost: Callable[[Item], float] = cost or (lambda _item: self._mean_seconds)
        self._callers = callers
        self._backlog = 0.0
        self._scheduled = False
        self._batch_size = metrics.batch_size.labels(name)
        self._in_flight = metrics.in_flight.labels(name)
        self._queue_depth = metrics.queue_depth.labels(name)
        metrics.queue_limit.labels(name).set(capacity)
        self._rejected = {
            reason: metrics.rejected.labels(name, reason)
            for reason in ("queue_full", "deadline", "stopping")
        }
        self._waiting: deque[Ticket[Item, Result]] = deque()
        self._coming = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = (
            None
            if on_loop
            else threading.Thread(target=self._serve, name=f"lane {name}", daemon=True)
        )
        if self._thread:
            self._thread.start()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def refusal(self, ahead: int = 0) -> TooManyRequests | None:
        """The answer, counted, to who comes while `capacity` items wait or come; `ahead` have been let in and are not there yet."""
        if len(self._waiting) + self._coming + ahead < self._capacity:
            return None
        self._rejected["queue_full"].inc()
        return TooManyRequests(self._full, _whole_seconds(self._backlog))

    def admit(self) -> None:
        """Refuses at once, before anything is read or decoded, if the lane is full.

        Raises:
            TooManyRequests: `capacity` items wait or come already.
        """
        if error := self.refusal():
            raise error

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Keeps a place for an item that is being made: more than can wait are not worth making. It is free again afterwards, so the
        item takes it at once.

        Raises:
            TooManyRequests: `capacity` items wait or come already.
        """
        self.admit()
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def run(self, item: Item, deadline: float) -> Done[Result]:
        """The result of `item`.

        Raises:
            TooManyRequests: `capacity` items wait or come already.
            Unavailable: the lane is closed, or what waits takes longer than until `deadline`.
            DeadlineExceeded: `deadline` passed while the item waited.
        """
        loop = asyncio.get_running_loop()
        now = time.perf_counter()
        ticket: Ticket[Item, Result] = Ticket(
            item, deadline, self._cost(item), loop.create_future(), loop, now
        )
        with self._changed:
            self._check(ticket, now)
            self._waiting.append(ticket)
            self._backlog += ticket.cost
            self._queue_depth.set(len(self._waiting))
            self._changed.notify()
        if self._thread is None:
            self._schedule(loop)
        try:
            return await ticket.future
        except asyncio.CancelledError:
            self._leave(ticket)
            raise

    def close(self) -> None:
        """Finishes what waits, then ends the thread; later callers are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread:
            self._thread.join()
        while self._thread is None and self._waiting:
            self._drain()

    def _check(self, ticket: Ticket[Item, Result], now: float) -> None:
        if self._closed:
            self._rejected["stopping"].inc()
            raise Unavailable("the service is stopping: ask another replica")
        self.admit()
        if now + self._backlog + ticket.cost > ticket.deadline:
            self._rejected["deadline"].inc()
            left = max(0.0, ticket.deadline - now)
            raise Unavailable(
                f"the {self.name} lane needs about {self._backlog + ticket.cost:.2g} s and {left:.2g} s are left of deadline_ms: "
                "ask again later, or give more time",
                _whole_seconds(self._backlog),
            )

    def _leave(self, ticket: Ticket[Item, Result]) -> None:
        with self._changed:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                self._forget([ticket])
                self._queue_depth.set(len(self._waiting))

    def _forget(self, tickets: Sequence[Ticket[Item, Result]]) -> None:
        """Takes what `tickets` were expected to run out of the backlog: the seconds of all that waits and runs."""
        with self._changed:
            self._backlog = max(0.0, self._backlog - sum(ticket.cost for ticket in tickets))

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets the event loop turn a few times, once if all callers wait then, and runs what waits on it."""
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn, loop, TURNS - 1)

    def _turn(self, loop: asyncio.AbstractEventLoop, left: int) -> None:
        if left and len(self._waiting) < self._callers():
            loop.call_soon(self._turn, loop, left - 1)
            return
        self._scheduled = False
        self._drain()
        if self._waiting:
            self._schedule(loop)

    def _drain(self) -> None:
        if batch := self._take():
            _hand_over(*self._run(batch))

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
            if batch := self._take():
                batch[0].loop.call_soon_threadsafe(_hand_over, *self._run(batch))

    def _run(
        self, batch: list[Ticket[Item, Result]]
    ) -> "tuple[list[Ticket[Item, Result]], Sequence[Result | Exception], float, float]":
        """The batch with its results, when it began and how long it took."""
        self._in_flight.set(len(batch))
        started = time.perf_counter()
        results = self._attempt(batch)
        ran = time.perf_counter() - started
        self._in_flight.set(0)
        self._forget(batch)
        self._mean_seconds += RECENT * (ran / len(batch) - self._mean_seconds)
        return batch, results, started, ran

    def _take(self) -> list[Ticket[Item, Result]]:
        """What waits, up to `most_rows`. Whose deadline passed is told so and left out, like those who gave up."""
        with self._changed:
            batch = [
                self._waiting.popleft() for _ in range(min(self._most_rows, len(self._waiting)))
            ]
            self._queue_depth.set(len(self._waiting))
        wanted = [ticket for ticket in batch if self._in_time(ticket)]
        if len(wanted) < len(batch):
            self._forget([ticket for ticket in batch if ticket not in wanted])
        return wanted

    def _in_time(self, ticket: Ticket[Item, Result]) -> bool:
        now = time.perf_counter()
        if now > ticket.deadline:
            error = DeadlineExceeded(
                f"{now - ticket.since:.2g} s passed in the {self.name} lane and deadline_ms is over: ask again later, or give more time"
            )
            ticket.loop.call_soon_threadsafe(_hand_over, [ticket], [error], now, 0.0)
            return False
        return not ticket.abandoned

    def _attempt(self, batch: list[Ticket[Item, Result]]) -> Sequence[Result | Exception]:
        self._batch_size.observe(len(batch))
        try:
            return self._work(batch)
        except Exception as error:  # noqa: BLE001 - it belongs to a caller, whatever it is
            return self._one_by_one(batch, error)

    def _one_by_one(
        self, batch: list[Ticket[Item, Result]], error: Exception
    ) -> Sequence[Result | Exception]:
        return [error] if len(batch) == 1 else [self._attempt([ticket])[0] for ticket in batch]


def _hand_over(
    batch: list[Ticket[Item, Result]],
    results: Sequence[Result | Exception],
    started: float,
    ran: float,
) -> None:
    """Gives every caller its own, in one turn of the event loop."""
    for ticket, result in zip(batch, results, strict=True):
        if ticket.future.done():  # its caller gave up
            continue
        if isinstance(result, Exception):
            ticket.future.set_exception(result)
        else:
            ticket.future.set_result(Done(result, started - ticket.since, ran))


def _whole_seconds(seconds: float) -> int:
    return max(1, round(seconds + 0.5))
