"""How a process ends: what was begun is finished, what comes later is refused in words, and it does not take for ever.

On SIGTERM or SIGINT
1. the process is no longer ready, so that nobody is led to it any more;
2. requests are taken for another SETTLE_SECONDS: those that were sent before may still lie in sockets;
3. from then on new ones are refused (503, `Connection: close`), while those that were begun are answered;
4. when all are and no new one has come for QUIET_SECONDS, at the latest LINGER_SECONDS after the last answer, the server stops;
5. after `seconds`, whatever has not been answered is given up, and its caller is told.

A second signal stops the server at once. Times are seconds.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Protocol, runtime_checkable

SETTLE_SECONDS, QUIET_SECONDS, LINGER_SECONDS = 0.1, 0.2, 1.0
TURNS = 3  # of the event loop after SETTLE_SECONDS: a long batch may have kept it from reading all that long
FAREWELL_SECONDS = 1.0  # for telling the callers that are given up

log = logging.getLogger("candor")


@runtime_checkable
class Number(Protocol):
    """A number that others see: a gauge of the metrics."""

    def set(self, value: float) -> None:
        """Replaces it."""


class Drain:
    """The requests that are being answered, and where the process is on its way to the end."""

    def __init__(self, seconds: float, in_flight: Number, ready: Number) -> None:
        self.stopping = False
        self.refusing = False
        self.over = False
        self._seconds = seconds
        self._in_flight = in_flight
        self._ready = ready
        self._begun: set[asyncio.Task[Any]] = set()
        self._refused = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """Takes the signals over from the server, whose own handlers are called in the end: for the main thread, within the event loop."""
        self._ready.set(1)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop = signal.getsignal(number)
            if callable(stop):
                signal.signal(number, self._handler(stop, loop))

    def begin(self) -> "asyncio.Task[Any]":
        """Notes that the current task answers a request."""
        task = asyncio.current_task()
        assert task is not None
        self._begun.add(task)
        self._in_flight.set(len(self._begun))
        return task

    def end(self, task: "asyncio.Task[Any]") -> None:
        """Notes that it has."""
        self._begun.discard(task)
        self._in_flight.set(len(self._begun))

    def refuse(self) -> None:
        """Notes that someone came too late."""
        self._refused.set()

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
        self._ready.set(0)
        log.info(
            "stopping: %d requests are being answered, for %g s at most",
            len(self._begun),
            self._seconds,
        )
        try:
            async with asyncio.timeout(self._seconds):
                await self._answer()
        except TimeoutError:
            await self._give_up()
        stop()

    async def _answer(self) -> None:
        """Returns when nobody waits for an answer."""
        await asyncio.sleep(SETTLE_SECONDS)
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.refusing = True
        if self._begun:
            await asyncio.wait(set(self._begun))
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while True:
                    self._refused.clear()
                    await asyncio.wait_for(self._refused.wait(), QUIET_SECONDS)

    async def _give_up(self) -> None:
        log.warning(
            "%d requests are not answered after %g s: they are given up",
            len(self._begun),
            self._seconds,
        )
        self.over = self.refusing = True
        begun = set(self._begun)
        for task in begun:
            task.cancel()
        if begun:
            await asyncio.wait(begun, timeout=FAREWELL_SECONDS)
