"""Who takes a new connection: the process that has the fewest.

The processes of a service listen on one socket, and uvloop takes from it what it can get: of 16 connections one process may have 14 and
another 2, and a sixth of the throughput is lost with them (docs/benchmarks.md). Here a process leaves a connection to those that have fewer,
and takes it after all if none of them comes for it, because a process may be busy or gone. uvloop also takes but one connection in a turn of
the event loop, which under overload lets whoever connects wait for a quarter of a second; here it is a handful.
"""

import asyncio
import logging
import select
import socket
from collections.abc import Callable
from typing import Any

from service.workers.shared_state import SharedState

AT_ONCE = 16  # connections in one turn of the event loop
# of so many connections one may be more than others have
SLACK = 16
# between two looks at a connection that is left to others; from the first to the last
LEAVE_SECONDS, PATIENCE_SECONDS = 0.001, 0.050
RETRY_SECONDS = 1.0  # after the system gave none: too many files are open

log = logging.getLogger("candor")

Factory = Callable[[], asyncio.BaseProtocol]


def share(
    loop: asyncio.AbstractEventLoop,
    shared_state: SharedState,
    met: Callable[[asyncio.BaseProtocol], object],
) -> None:
    """Lets the servers that `loop` makes of a given socket, without TLS, share its connections with `shared_state`.

    The protocol of each connection, with TLS too, is shown to `met` before it begins.
    """
    make = loop.create_server

    async def create_server(factory: Factory, *args: Any, **options: Any) -> Any:
        def meeting() -> asyncio.BaseProtocol:
            protocol = factory()
            met(protocol)
            return protocol

        listening = options.get("sock")
        if listening is None or options.get("ssl") is not None:
            return await make(meeting, *args, **options)
        return Accepting(loop, listening, meeting, shared_state)

    loop.create_server = create_server  # type: ignore[method-assign, assignment]


class Accepting:
    """What takes connections from `listening`, in the place of the loop's own server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        factory: Factory,
        shared_state: SharedState,
    ) -> None:
        self._loop = loop
        self._listening = listening
        self._factory = factory
        self._shared_state = shared_state
        self._open = 0
        self._beginning: set[asyncio.Task[None]] = set()
        self._left_since: float | None = None
        self._later: asyncio.TimerHandle | None = None
        self._someone = select.poll()
        self._someone.register(listening, select.POLLIN)
        listening.setblocking(False)
        self._count(0)
        loop.add_reader(listening, self._take)

    def close(self) -> None:
        """Takes no more."""
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listening)
        self._shared_state.connected(None)

    async def wait_closed(self) -> None:
        """Returns at once: the connections are the server's."""

    def _take(self) -> None:
        """Takes what is there, as long as it is this process's turn."""
        for _ in range(AT_ONCE):
            if self._for_others():
                self._pause(LEAVE_SECONDS)
                return
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._left_since = None
                return
            except OSError as error:
                log.warning(
                    "no connection can be taken, another try is in %g s: %s", RETRY_SECONDS, error
                )
                self._pause(RETRY_SECONDS)
                return
            self._count(1)
            connection.setblocking(False)
            task = self._loop.create_task(self._begin(connection))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._counted, connection)
        except OSError:  # it has gone again
            connection.close()
            self._count(-1)

    def _counted(self) -> asyncio.BaseProtocol:
        """A protocol that is counted until its connection is lost."""
        protocol = self._factory()
        lost = protocol.connection_lost

        def connection_lost(exc: Exception | None) -> None:
            self._count(-1)
            lost(exc)

        protocol.connection_lost = connection_lost  # type: ignore[method-assign]
        return protocol

    def _count(self, more: int) -> None:
        self._open += more
        self._shared_state.connected(self._open)

    def _for_others(self) -> bool:
        """Whether someone has fewer connections and may still come."""
        if self._open <= self._shared_state.fewest_connections + self._open // SLACK:
            self._left_since = None
            return False
        now = self._loop.time()
        self._left_since = self._left_since or now
        return now - self._left_since < PATIENCE_SECONDS

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """Looks again; if nobody is there any more, the next to come is left to others anew."""
        if not self._someone.poll(0):
            self._left_since = None
        self._loop.add_reader(self._listening, self._take)
