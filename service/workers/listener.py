"""Accepting connections: the worker that has the fewest takes the next.

The workers of a service listen on one socket, and uvloop accepts whatever it can get: of 16
connections one worker may have 14 and another 2, which costs a sixth of the throughput
(docs/benchmarks.md). Here a worker leaves a connection to those that have fewer, and takes it after
PATIENCE_SECONDS if none does, because they may be busy or gone.
"""

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from service.errors import SettingsError
from service.workers.protocol import Connection
from service.workers.shared_state import SharedState

# uvloop takes one connection a turn of the event loop: under overload the last to connect would
# wait for 0.25 s.
ACCEPTS_PER_TURN = 16
SLACK = 16  # a worker may have one connection in so many more than others
LOOK_SECONDS = 0.001  # between two looks at a connection that is left to others
PATIENCE_SECONDS = 0.050  # longer than a batch, which keeps another worker from accepting
RETRY_SECONDS = 1.0  # after the system had no connection to give: too many files are open

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - it is compared

log = logging.getLogger("candor")

Factory = Callable[[], asyncio.BaseProtocol]


def share(
    loop: asyncio.AbstractEventLoop,
    shared_state: SharedState,
    started: Callable[[str], object],
    second_port: int = 0,
    before: Callable[[str], Awaitable[None]] | None = None,
) -> None:
    """Lets the servers that `loop` makes of a given socket share its connections with the other
    workers. Each accepts those of a `second_port` at the same address, too, unless it is 0.

    `before` is awaited with the host before the first of them accepts connections, and `started` is
    called with its address once it does. Servers with TLS, and
    those of another protocol class than `Connection`, are the loop's own: they work, and a warning
    says what they lack.
    """
    make = loop.create_server

    async def create_server(factory: Factory, *args: Any, **options: Any) -> Any:
        listening, tls = options.get("sock"), options.get("ssl") is not None
        protocol = factory()
        if not isinstance(protocol, Connection):
            log.warning(_FOREIGN, type(protocol).__name__)
        elif tls and not shared_state.alone:
            log.warning(_TLS)
        # Before the first: the service is ready once that answers. The system shares these ports
        # among the workers.
        host = options.get("host") if listening is None else listening.getsockname()[0]
        if before is not None:
            await before(str(host))
        if second_port:
            # It closes with the process: metrics are read to the end.
            await make(factory, host, second_port, reuse_port=True, ssl=options.get("ssl"))
        if listening is None or tls or not isinstance(protocol, Connection):
            server: asyncio.AbstractServer = await make(factory, *args, **options)
        else:
            # uvicorn calls neither of the two methods that are missing.
            server = SharedListener(  # type: ignore[abstract]
                loop, listening, factory, shared_state
            )
        name = server.sockets[0].getsockname()  # type: ignore[attr-defined]
        started(address(name, tls=tls))
        return server

    # BentoML's worker starts the server itself: the loop is the only place to accept connections
    # from.
    loop.create_server = create_server  # type: ignore[method-assign, assignment]


def check_free(host: str, port: int, variable: str) -> None:
    """Checks that nothing listens on a port of `variable` that the workers will share.

    Raises:
        SettingsError: something does, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Ended connections may stay: only what listens is in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise SettingsError(
                f"{variable} is {port}, and {host}:{port} cannot be listened on "
                f"({error.strerror}): name a free port"
            ) from None


_FOREIGN = (
    "HTTP is served by uvicorn's %s instead of Candor's own class: everything works, but slower, "
    "overload is rejected later, and work for callers who disconnect goes on; start with uvicorn's "
    "http='auto' or 'httptools'"
)
_TLS = (
    "with TLS the event loop accepts the connections, and the workers may have unequal shares of "
    "them; let a proxy end TLS if throughput matters"
)


def address(name: tuple[Any, ...] | str, *, tls: bool) -> str:
    """The URL for the name of a listening socket; the path if it is a Unix socket."""
    if isinstance(name, str):
        return name
    host, port = name[:2]
    if host in EVERYWHERE:
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if tls else 'http'}://{host}:{port}"


class SharedListener(asyncio.AbstractServer):
    """Accepts connections from `listening`, in the place of the loop's own server."""

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
        self._closed = False
        self._starting: set[asyncio.Task[None]] = set()
        self._left_since: float | None = None
        self._later: asyncio.TimerHandle | None = None
        self._pending = select.poll()
        self._pending.register(listening, select.POLLIN)
        listening.setblocking(False)
        self._count(0)
        loop.add_reader(listening, self._accept)

    @property
    def sockets(self) -> Sequence[socket.socket]:
        """The socket that it accepts from, as `asyncio.Server` gives it."""
        return (self._listening,)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        return self._loop

    def is_serving(self) -> bool:
        """True until it is closed."""
        return not self._closed

    def close(self) -> None:
        """Accepts no more."""
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listening)
        self._shared_state.connected(None)

    async def wait_closed(self) -> None:
        """Returns at once: uvicorn closes the connections."""

    def _accept(self) -> None:
        """Accepts what is pending, as long as this worker has not more than others."""
        for _ in range(ACCEPTS_PER_TURN):
            if self._others_have_fewer():
                self._pause(LOOK_SECONDS)
                return
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._left_since = None
                return
            except OSError as error:
                log.warning(
                    "no connection can be accepted (%s); the next try is in %g s",
                    error,
                    RETRY_SECONDS,
                )
                self._pause(RETRY_SECONDS)
                return
            self._count(1)
            connection.setblocking(False)
            task = self._loop.create_task(self._start(connection))
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _start(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._counted, connection)
        except OSError:  # the caller has disconnected
            connection.close()
            self._count(-1)

    def _counted(self) -> asyncio.BaseProtocol:
        """A protocol that counts the end of its connection."""
        protocol = self._factory()
        protocol.on_close = self._count_close  # type: ignore[attr-defined] # a Connection
        return protocol

    def _count_close(self) -> None:
        self._count(-1)

    def _count(self, more: int) -> None:
        self._open += more
        self._shared_state.connected(self._open)

    def _others_have_fewer(self) -> bool:
        """True if another worker has fewer connections, and time to come for this one."""
        if self._open <= self._shared_state.fewest_connections + self._open // SLACK:
            self._left_since = None
            return False
        now = self._loop.time()
        self._left_since = self._left_since or now
        return now - self._left_since < PATIENCE_SECONDS

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._later = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        # Where another worker has taken the connection, the patience for the next one begins anew.
        if not self._pending.poll(0):
            self._left_since = None
        self._loop.add_reader(self._listening, self._accept)
