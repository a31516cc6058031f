"""One HTTP connection: uvicorn's protocol class, extended.

`install` makes uvicorn create a `Connection` for each client that connects. A request finds its own
by `of(scope)`.

The module refers to nothing above `workers`: the rules of early rejection are the API's
(`service.api.overload`), and arrive through the state that the server hands to its connections (the
lifespan state of ASGI).
"""

import asyncio
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

from starlette.types import Scope
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

STATE = "connection"  # key of a request's state: a weak reference to its connection
REJECTION = "early_rejection"  # key of the server's state: the EarlyRejection, if there is one
RESPONSE = b"HTTP/1."  # how the head of a response begins
HEAD_END = b"\r\n\r\n"
HEAD_BYTES = 2_048  # a longer head is left to uvicorn
# A head waits so long for its body: the queue is asked when both are in.
HOLD_SECONDS = 0.050
# Rejections set the keep-alive timer at most so often: it may end a connection this much too soon.
REARM_SECONDS = 1.0


class RequestHead(NamedTuple):
    """The parts of a request's head that early rejection needs; `size` is of head and body."""

    path: str
    request_id: bytes
    size: int


@runtime_checkable
class EarlyRejection(Protocol):
    """Rejects requests on the connection, before a task exists for them."""

    @property
    def active(self) -> bool:
        """True while requests may be rejected."""

    def head_of(self, head: bytes) -> RequestHead | None:
        """Parses a head, up to its empty line; None if the request must be left to uvicorn."""

    def response(self, head: RequestHead, common: list[tuple[bytes, bytes]]) -> bytes | None:
        """The whole response to a rejected request, with the headers `common` to all responses;
        None if the request is admitted.
        """


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with four additions.

    - The head and the body of a response leave in one write.
    - Work for a request can be cancelled when its caller disconnects (`calling`).
    - Its end is counted by the listener that accepted it (`on_close`).
    - Requests that the queue has no place for are rejected before they become a task, where the
      server's state names an `EarlyRejection`. Only a request that stands alone on an idle
      connection is considered; all else passes on unchanged.

    An ended connection is part of no reference cycle: a thousand that end together would otherwise
    hold the event loop for a fifth of a second in the garbage collector.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # uvicorn copies this into the state of every request. The reference is weak, because the
        # protocol holds the request.
        self.app_state = {**app_state, STATE: weakref.ref(self)}
        self.lost = False
        self.on_close: Callable[[], object] | None = None
        self._callbacks: list[Callable[[], object]] = []
        self._rejection: EarlyRejection | None = app_state.get(REJECTION)
        self._held = b""
        self._unread = 0  # bytes of a rejected request's body that are still to come
        self._armed_at = 0.0

    @property
    def body_received(self) -> bool:
        """True once the body of the current request has arrived wholly."""
        return not self.cycle.more_body

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Calls `callback` if the connection is lost within the block."""
        self.flow.resume_reading()  # a transport that does not read does not notice the end
        self._callbacks.append(callback)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    def connection_made(  # type: ignore[override] # as in uvicorn
        self, transport: asyncio.Transport
    ) -> None:
        """Begins, on a transport that joins writes."""
        super().connection_made(JoiningTransport(transport, self.loop))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends, and calls back those who wait for it."""
        self.lost = True
        for callback in self._callbacks:
            callback()
        super().connection_lost(exc)
        self._count_close()

    def handle_websocket_upgrade(self) -> None:
        """Hands the transport to another protocol, which does not count its end."""
        super().handle_websocket_upgrade()
        self._count_close()

    def data_received(self, data: bytes) -> None:
        """Passes `data` on to uvicorn, or rejects the request that it completes."""
        rejection = self._rejection
        if rejection is None:
            super().data_received(data)
            return
        if self._unread:
            data, self._unread = data[self._unread :], max(0, self._unread - len(data))
        held, self._held = self._held, b""
        data = held + data
        if not rejection.active or not (held or self._between_requests()):
            self._pass_on(data)
            return
        end = data.find(HEAD_END) + len(HEAD_END)
        head = rejection.head_of(data[:end]) if len(HEAD_END) <= end <= HEAD_BYTES else None
        if head is None or len(data) > head.size:
            self._pass_on(data)
        elif end == len(data) < head.size:
            self._hold(data)
        elif response := rejection.response(head, self.server_state.default_headers):
            self._unread = head.size - len(data)
            self._reject(response)
        else:
            self._pass_on(data)

    def _count_close(self) -> None:
        if self.on_close is not None:
            self.on_close()
            self.on_close = None

    def _pass_on(self, data: bytes) -> None:
        if data:
            super().data_received(data)

    def _between_requests(self) -> bool:
        """True if the last request is read and answered, and uvicorn has nothing of the next."""
        cycle: Any = self.cycle  # None until the first request
        if self.scope is not (cycle and cycle.scope) or self.transport.is_closing():
            return False
        return cycle is None or (cycle.response_complete and not cycle.more_body)

    def _hold(self, head: bytes) -> None:
        self._held = head
        self.loop.call_later(HOLD_SECONDS, self._release, head)

    def _release(self, head: bytes) -> None:
        if self._held is head and not self.transport.is_closing():
            self._held = b""
            super().data_received(head)

    def _reject(self, response: bytes) -> None:
        self.server_state.total_requests += 1
        self.transport.write_whole(response)  # type: ignore[attr-defined] # a JoiningTransport
        now = self.loop.time()
        if self.timeout_keep_alive_task is None or now > self._armed_at + REARM_SECONDS:
            self._armed_at = now
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


class JoiningTransport:
    """A transport that keeps the head of a response for the next write, or to the end of the event
    loop's turn.

    uvicorn writes head and body one by one; uvloop makes a system call and a packet of each.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Writes `data` after the head that was kept, or keeps it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(RESPONSE):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def write_whole(self, response: bytes) -> None:
        """Writes a response that has its body."""
        self._flush()
        self._transport.write(response)

    def close(self) -> None:
        """Writes the head that was kept, and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)


def install() -> None:
    """Makes uvicorn use `Connection` wherever it would use its own class for httptools."""
    for name in ("auto", "httptools"):
        HTTP_PROTOCOLS[name] = f"{__name__}:{Connection.__name__}"


def of(scope: Scope) -> Connection | None:
    """The connection of a request; None where the server runs on another protocol class."""
    reference = scope.get("state", {}).get(STATE)
    connection: Connection | None = reference and reference()
    return connection
