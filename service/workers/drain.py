"""The end of a worker: requests that have begun are answered, later ones are rejected in words,
and it takes a bounded time.

On SIGTERM or SIGINT
1. the worker is no longer ready, so that load balancers stop sending to it;
2. every answer carries `Connection: close`, and connections that are idle for IDLE_SECONDS end,
   until there is none for GONE_SECONDS, at most WINDOW_SECONDS: callers connect again, to another
   replica;
3. requests are accepted for another SETTLE_SECONDS, because some that were sent before may still
   lie in sockets;
4. from then on new ones are rejected (503, `Connection: close`), and those that have begun are
   answered;
5. the server stops when all are answered and no new one has come for QUIET_SECONDS, at the latest
   LINGER_SECONDS after the last answer;
6. after `seconds`, what is not answered is cancelled, and its callers get a 503.

A second signal stops the server at once. Times are seconds.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from service.workers.connections import Connections

WINDOW_SECONDS, IDLE_SECONDS = 5.0, 1.0
GONE_SECONDS = 0.5  # callers of one batch end their connections together, and come again
LOOK_SECONDS = 0.1  # between two looks at the connections that are left
SETTLE_SECONDS, QUIET_SECONDS, LINGER_SECONDS = 0.1, 0.2, 1.0
TURNS = 3  # of the event loop after SETTLE_SECONDS, which one long batch may have taken wholly
FAREWELL_SECONDS = 1.0  # for the answers to cancelled requests

log = logging.getLogger("candor")


@runtime_checkable
class Number(Protocol):
    """A number that is shown elsewhere: a gauge of the metrics."""

    def set(self, value: float) -> None:
        """Replaces the number."""


@runtime_checkable
class Entrance(Protocol):
    """Another way for requests than the connections of HTTP, with the same stages of its end."""

    @property
    def quiet(self) -> bool:
        """True once no caller of before has a connection that it may send on."""

    def show(self, *, ready: bool) -> None:
        """Lets callers know whether requests are wanted."""

    def reject(self) -> None:
        """Takes no new requests."""


class Drain:
    """The requests in flight, and how far the worker is on its way to the end.

    `stopping` from the signal on; `rejecting` when new requests are; `cancelling` when those in
    flight are cancelled.
    """

    def __init__(
        self,
        seconds: float,
        in_flight: Number,
        ready: Number,
        connections: Connections,
    ) -> None:
        self.stopping = False
        self.rejecting = False
        self.cancelling = False
        self._seconds = seconds
        self._in_flight = in_flight
        self._ready = ready
        self._connections = connections
        self._tasks: set[asyncio.Task[Any]] = set()
        self._rejected = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._able = True
        self._entrances: list[Entrance] = []

    @property
    def ready(self) -> bool:
        """True while requests are wanted: the worker is able, and does not stop."""
        return self._able and not self.stopping

    def attach(self, entrance: Entrance) -> None:
        """Ends another way for requests as it ends that of HTTP."""
        self._entrances.append(entrance)

    def set_able(self, able: bool) -> None:  # noqa: FBT001 - it is a state
        """Notes that the worker cannot answer now, or can again."""
        self._able = able
        self._show()

    def listen(self) -> None:
        """Takes the signals over; the server's handlers run at the end. For the main thread,
        within the event loop.
        """
        self._ready.set(1)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop = signal.getsignal(number)
            if callable(stop):
                signal.signal(number, self._handler(stop, loop))

    def begin(self) -> "asyncio.Task[Any]":
        """Counts the current task, which answers a request, as in flight."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._in_flight.set(len(self._tasks))
        return task

    def end(self, task: "asyncio.Task[Any]") -> None:
        """Counts a task as in flight no longer."""
        self._tasks.discard(task)
        self._in_flight.set(len(self._tasks))

    def rejected(self) -> None:
        """Notes that a request came while the worker was `rejecting`."""
        self._rejected.set()

    def _handler(
        self, stop: Callable[[int, FrameType | None], Any], loop: asyncio.AbstractEventLoop
    ) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                stop(number, frame)
                return
            self.stopping = True
            loop.call_soon_threadsafe(self._start, lambda: stop(number, None))

        return handle

    def _start(self, stop: Callable[[], None]) -> None:
        self._draining = asyncio.ensure_future(self._drain(stop))

    async def _drain(self, stop: Callable[[], None]) -> None:
        self._show()
        log.info(
            "stopping: %d requests are in flight and have %g s", len(self._tasks), self._seconds
        )
        try:
            async with asyncio.timeout(self._seconds):
                await self._finish()
        except TimeoutError:
            await self._cancel()
        stop()

    def _show(self) -> None:
        self._ready.set(self.ready)
        for entrance in self._entrances:
            entrance.show(ready=self.ready)

    def _reject(self) -> None:
        self.rejecting = True
        for entrance in self._entrances:
            entrance.reject()

    async def _finish(self) -> None:
        """Waits until nobody expects an answer."""
        await self._part()
        await asyncio.sleep(SETTLE_SECONDS)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._reject()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while True:
                    self._rejected.clear()
                    # asyncio.wait_for of Python 3.11 loses the end of the outer timeout where the
                    # event is set in the same turn: a stop then took minutes.
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._rejected.wait()

    async def _part(self) -> None:
        """Ends the connections, each with an answer or while it is idle."""
        loop = asyncio.get_running_loop()
        self._connections.retire()
        seen_at, accepted = loop.time(), self._connections.accepted
        end = seen_at + WINDOW_SECONDS
        while (now := loop.time()) < min(end, seen_at + GONE_SECONDS):
            self._connections.end_quiet(before=now - IDLE_SECONDS)
            callers = len(self._connections) or not all(each.quiet for each in self._entrances)
            if callers or self._connections.accepted > accepted:
                seen_at, accepted = now, self._connections.accepted
            await asyncio.sleep(LOOK_SECONDS)
        self._connections.end_quiet(before=loop.time())

    async def _cancel(self) -> None:
        log.warning(
            "%d requests are not answered after %g s: they are cancelled",
            len(self._tasks),
            self._seconds,
        )
        self.cancelling = True
        self._reject()
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=FAREWELL_SECONDS)
