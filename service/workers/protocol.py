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

import httptools
from starlette.types import Scope
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.errors import HeadTooLarge, MalformedRequest, RequestError, SlowRequest
from service.workers.connections import Connections
from service.workers.transport import JoiningTransport

STATE = "connection"  # key of a request's state: a weak reference to its connection
REJECTION = "early_rejection"  # key of the server's state: the EarlyRejection, if there is one
CONNECTIONS = "connections"  # key of the server's state: the Connections
HEAD_END = b"\r\n\r\n"
CONNECT = b"CONNECT"
# Also of what is neither head nor body: sizes of chunks, trailers, empty lines.
HEAD_BYTES = 32 * 2**10
HEAD_SECONDS = 10.0  # from the connection, or from the first byte of a later head, to its end
BODY_SECONDS = 30.0  # from the end of the head, where the answer came before the end of the body
WRITE_SECONDS = 60.0  # of a caller that does not read its answer
SILENT_SECONDS = 5.0  # after which a caller has no more to say to a connection that ends
BODY_LINGER_BYTES = 100 * 2**20
HEAD_LINGER_BYTES, HEAD_LINGER_SECONDS = 2**20, 5.0
SHORT_HEAD_BYTES = 2_048  # a longer head is never rejected early
# A head waits so long for its body: the queue is asked when both are in.
HOLD_SECONDS = 0.050
# Rejections set the keep-alive timer at most so often: it may end a connection this much too soon.
REARM_SECONDS = 1.0

_UNLIMITED = Connections()
_INVALID = "these bytes are no HTTP/1.1 request: correct its framing (RFC 9112)"
_TOO_LARGE = (
    f"the head has more than {HEAD_BYTES:,} bytes, the limit: send fewer and shorter headers"
)
_TOO_SLOW = f"the head is incomplete after {HEAD_SECONDS:g} s: send it at once"


class RequestHead(NamedTuple):
    """The parts of a request's head that early rejection needs."""

    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    request_id: bytes
    head_bytes: int
    body_bytes: int

    @property
    def size(self) -> int:
        """The bytes of head and body."""
        return self.head_bytes + self.body_bytes


class Discarding:
    """Bytes of a caller that are thrown away, until it closes, is silent, or uses up a limit."""

    def __init__(self, now: float, seconds: float, most_bytes: int) -> None:
        self._until = now + seconds
        self._heard_at = now
        self._left = most_bytes

    def count(self, size: int, now: float) -> None:
        """Counts `size` bytes that came."""
        self._left -= size
        self._heard_at = now

    def over(self, now: float) -> bool:
        """True once the caller has had its time or its bytes."""
        return self._left < 0 or now > min(self._until, self._heard_at + SILENT_SECONDS)


@runtime_checkable
class EarlyRejection(Protocol):
    """Rejects requests on the connection, before a task exists for them."""

    @property
    def active(self) -> bool:
        """True while requests may be rejected."""

    def head_of(self, head: bytes, server: tuple[str, int | None] | None) -> RequestHead | None:
        """Parses a head, up to its empty line, that came to the address `server`; None if the
        request must be left to uvicorn.
        """

    def response(self, head: RequestHead, common: list[tuple[bytes, bytes]]) -> bytes | None:
        """The whole response to a rejected request, with the headers `common` to all responses;
        None if the request is admitted.
        """


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection with these additions.

    - The head and the body of a response leave in one write.
    - Work for a request can be cancelled when its caller disconnects (`calling`).
    - Its end is counted by the listener that accepted it (`on_close`), and its number is limited
      (`Connections`).
    - Heads, and bodies after an early answer, are limited in bytes and seconds.
    - An early answer reaches a caller that is still sending: we read on for a while, then close.
    - `Upgrade` is ignored, and the body is read by its length (RFC 9110, 7.8).
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
        self._all: Connections = app_state.get(CONNECTIONS, _UNLIMITED)
        self._retiring = False
        self._held = b""
        self._unread = 0  # bytes of a rejected request's body that are still to come
        self._armed_at = 0.0
        self._overhead = 0  # bytes since the last that belonged to a body or ended a head
        self._head_since: float | None = self.loop.time()
        self._body_since: float | None = None
        self._discarding: Discarding | None = None
        self._unread_since = self.loop.time()  # bytes of answers lie in our buffer

    @property
    def body_received(self) -> bool:
        """True once the body of the current request has arrived wholly."""
        return not self.cycle.more_body

    @property
    def quiet(self) -> bool:
        """True while nothing of the next request has come, and all answers have left."""
        coming = self._overhead or self._held or self._unread or self._body_since
        return not (coming or self.unread_bytes)

    @property
    def unread_bytes(self) -> int:
        """The bytes of answers that wait in our memory until the caller reads."""
        return int(self.transport.get_write_buffer_size())

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
        self._joining = JoiningTransport(transport, self.loop, self._lingers)
        super().connection_made(self._joining)  # type: ignore[arg-type]
        self._all.add(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends, and calls back those who wait for it."""
        self._leave()
        super().connection_lost(exc)
        self._joining.lingers = None  # a reference cycle
        self._all.remove(self)
        if self.on_close is not None:
            self.on_close()
            self.on_close = None

    def retire(self) -> None:
        """Ends the connection with its next answer."""
        self._retiring = True
        if self._answering:
            self.cycle.keep_alive = False

    def end(self) -> None:
        """Ends the connection when all answers have left."""
        self._joining.end()

    def abort(self) -> None:
        """Ends the connection at once."""
        self.transport.abort()

    def shutdown(self) -> None:
        """Ends the connection with the answer that it owes, and lets nobody delay the end."""
        self._joining.lingers = None
        self.retire()
        if not self._answering:
            self.end()

    def check(self, now: float) -> None:
        """Ends the connection if it has used up the time of a head, of a body or of the end."""
        if not self.unread_bytes:
            self._unread_since = now
        elif now - self._unread_since > WRITE_SECONDS:
            self._all.report.closed("write_time")
            self.abort()
        if self._discarding is not None and self.transport.is_closing():
            if self._discarding.over(now):
                self.end()
        elif self._answering:
            return
        elif self._body_since is not None:
            if now - self._body_since > BODY_SECONDS:
                self._all.report.closed("body_time")
                self._linger(HEAD_LINGER_SECONDS, HEAD_LINGER_BYTES)
        elif self._head_since is not None and now - self._head_since > HEAD_SECONDS:
            self._end_head()

    def timeout_keep_alive_handler(self) -> None:
        """Ends the connection, which had no request for as long as uvicorn keeps it."""
        if not self.transport.is_closing():
            self._all.report.closed("idle")
        super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        """Passes `data` on to uvicorn, or rejects the request that it completes."""
        if self._discarding is not None:
            now = self.loop.time()
            self._discarding.count(len(data), now)
            if self._discarding.over(now):
                self.end()
            return
        if self._unread:
            data = self._skip(data)
        held, self._held = self._held, b""
        data = held + data
        rejection = self._rejection
        if (
            rejection is None
            or self._retiring
            or not rejection.active
            or not (held or self._between_requests())
        ):
            self._pass_on(data)
            return
        end = data.find(HEAD_END) + len(HEAD_END)
        short = len(HEAD_END) <= end <= SHORT_HEAD_BYTES
        head = rejection.head_of(data[:end], self.server) if short else None
        if head is None or len(data) > head.size:
            self._pass_on(data)
        elif end == len(data) < head.size:
            self._hold(data)
        elif response := rejection.response(head, self.server_state.default_headers):
            self._reject(response, head.size - len(data))
        else:
            self._pass_on(data)

    def on_headers_complete(self) -> None:
        """Begins a request; without its `Upgrade` it comes again."""
        # The rest of a body that was answered early may have come with it, and have set the timer.
        self._unset_keepalive_if_required()
        self._overhead, self._head_since = 0, None
        if self._upgrades():
            return
        super().on_headers_complete()
        self.headers = []  # trailers are no headers of the request (RFC 9110, 6.5.1)
        self._body_since = self.loop.time()
        self._all.busy(self)
        if self._retiring:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Adds to the body."""
        self._overhead = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the body."""
        self._overhead = 0
        if self._upgrades():
            return
        self._body_since = None
        super().on_message_complete()
        if self.cycle.response_complete:  # the answer came early
            self._arm()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        if not self._answering:
            self._all.rest(self, self.loop.time())

    @property
    def _answering(self) -> bool:
        """True while a request has no complete answer."""
        cycle: Any = self.cycle  # None until the first request
        return cycle is not None and not cycle.response_complete

    def _leave(self) -> None:
        """Lets the current request know that its caller is gone."""
        self.lost = True
        for callback in self._callbacks:
            callback()

    def _should_upgrade(self) -> bool:
        """Never: no WebSocket is served."""
        return False

    def _upgrades(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != CONNECT

    def _pass_on(self, data: bytes) -> None:
        """Feeds the parser, at most as many bytes at once as a head may still have."""
        if not data:
            return
        self._unset_keepalive_if_required()
        if self._head_since is None and self._body_since is None:
            self._head_since = self.loop.time()
        rest = memoryview(data)
        while rest and self._discarding is None:
            piece = rest[: HEAD_BYTES - self._overhead]
            self._overhead += len(piece)
            rest = rest[self._feed(piece) :]
            if self._overhead >= HEAD_BYTES:
                self._all.report.closed("head_size")
                self._refuse(HeadTooLarge(_TOO_LARGE))

    def _feed(self, piece: memoryview) -> int:
        """Feeds the parser; the number of bytes that it took."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgrades():
                self._begin_again()
                return int(upgrade.args[0])
            self._refuse_bad_request()
        except httptools.HttpParserError:
            self._refuse_bad_request()
        return len(piece)

    def _begin_again(self) -> None:
        """Begins the request again as if it had no `Upgrade`.

        The parser takes what follows the head of such a request for another protocol, or for the
        next request (uvicorn#2722).
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._feed(memoryview(b"\r\n".join(lines) + HEAD_END))

    def _refuse_bad_request(self) -> None:
        self._all.bad_request()
        self._refuse(MalformedRequest(_INVALID))

    def _end_head(self) -> None:
        self._all.report.closed("head_time")
        if self.quiet:
            self.end()
        else:
            self._refuse(SlowRequest(_TOO_SLOW))

    def _refuse(self, error: RequestError) -> None:
        """Answers what is no request with `error`, and ends."""
        self._discarding = Discarding(self.loop.time(), BODY_SECONDS, HEAD_LINGER_BYTES)
        if self.pipeline or (self._answering and self._body_since is None):
            self.cycle.keep_alive = False  # answers that are on their way are the last
            return
        if self._body_since is None or not self.cycle.response_started:
            self.transport.write_whole(self._all.respond(error))  # type: ignore[attr-defined]
        self._linger(HEAD_LINGER_SECONDS, HEAD_LINGER_BYTES)

    def _lingers(self) -> bool:
        """Begins to linger if a request of this connection is not read wholly."""
        if self.lost or (self._discarding is None and self._body_since is None):
            return False
        self._linger(BODY_SECONDS, BODY_LINGER_BYTES)
        return True

    def _linger(self, seconds: float, most_bytes: int) -> None:
        self._discarding = Discarding(self.loop.time(), seconds, most_bytes)
        self._unset_keepalive_if_required()
        if self._answering:
            self._leave()
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.flow.resume_reading()
        self._joining.half_close()

    def _between_requests(self) -> bool:
        """True if the last request is read and answered, and uvicorn has nothing of the next."""
        cycle: Any = self.cycle  # None until the first request
        if self.scope is not (cycle and cycle.scope) or self.transport.is_closing():
            return False
        return self._body_since is None and (cycle is None or cycle.response_complete)

    def _skip(self, data: bytes) -> bytes:
        """What follows the body of a rejected request in `data`."""
        data, self._unread = data[self._unread :], max(0, self._unread - len(data))
        if not self._unread:
            self._body_since = None
            self._arm()
        return data

    def _hold(self, head: bytes) -> None:
        self._held = head
        self.loop.call_later(HOLD_SECONDS, self._release, head)

    def _release(self, head: bytes) -> None:
        if self._held is head and not self.transport.is_closing():
            self._held = b""
            self._pass_on(head)

    def _reject(self, response: bytes, unread: int) -> None:
        self.server_state.total_requests += 1
        self.transport.write_whole(response)  # type: ignore[attr-defined] # a JoiningTransport
        now = self.loop.time()
        self._head_since = None
        self._all.rest(self, now)
        self._unread = unread
        if unread:
            self._body_since = now
            self._unset_keepalive_if_required()
        elif self.timeout_keep_alive_task is None or now > self._armed_at + REARM_SECONDS:
            self._armed_at = now
            self._arm()

    def _arm(self) -> None:
        """Ends the connection unless a byte comes within uvicorn's time."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )


def install() -> None:
    """Makes uvicorn use `Connection` wherever it would use its own class for httptools."""
    for name in ("auto", "httptools"):
        HTTP_PROTOCOLS[name] = f"{__name__}:{Connection.__name__}"


def of(scope: Scope) -> Connection | None:
    """The connection of a request; None where the server runs on another protocol class."""
    reference = scope.get("state", {}).get(STATE)
    connection: Connection | None = reference and reference()
    return connection
