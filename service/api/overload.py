"""The door: refuses images on the connection itself while too many wait, before a request becomes a task.

Under overload most answers are refusals, and what a refusal takes is taken from those who are served. The way through the server, the
middleware and back costs 0.19 ms there; here it costs a fifth of that (docs/benchmarks.md). The door is for requests that it understands
at a glance: POST to a route without parameters, with one Content-Length, and a short head. All others, and all when nothing is crowded, are
passed on as they come, so that nothing is refused here that `Admitted` would let in.

It knows how uvicorn keeps a connection (`HttpToolsProtocol`): whether it is between two requests, and its keep-alive timer.
"""

import re
import time
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import NamedTuple

from starlette.requests import Request
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.api import problems
from service.api.middleware import REQUEST_ID, Measured, admitted
from service.errors import TooManyRequests
from service.schedule.pipeline import Pipeline
from service.workers.drain import Drain
from service.workers.protocol import Connection

HOLD_SECONDS = (
    0.050  # a body may come so long after its head, and whether there is a place is seen then
)
LINE = re.compile(rb"POST (/[\w/]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n")
KEPT = re.compile(rb"\r\nconnection:[ \t]*keep-alive[ \t]*\r\n")
IDENTITY = re.compile(rb"(?i:\r\n" + REQUEST_ID + rb":)[ \t]*([!-~]*)[ \t]*\r\n")
END = b"\r\n\r\n"
STRANGE = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|[ \t])")
HEAD_BYTES = 2_048  # longer ones are passed on
HEADS = 1_024  # are kept with what they say: those of a client differ in little but the length
REARM_SECONDS = 1.0  # the keep-alive timer is set anew so often at most, and so may end a connection that much sooner


class Heading(NamedTuple):
    """What a request says before its body: the path, the caller's id, the bytes of head and body together."""

    path: str
    identity: bytes
    size: int


class Door:
    """What `pipeline` has no place for is refused; `measured` counts it like any other answer. Who stops, refuses nobody here."""

    def __init__(
        self, pipeline: Pipeline, measured: Measured, drain: Drain, routes: Iterable[Route]
    ) -> None:
        self._pipeline = pipeline
        self._measured = measured
        self._drain = drain
        paths = admitted(routes).keys()
        self.heading = lru_cache(HEADS)(lambda head: heading_of(head, paths))
        self._passed = 0
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._written = b""

    def guard(self, connection: Connection) -> None:
        """Stands before `connection` from now on."""
        protocol = connection.protocol
        protocol.data_received = Doorway(self, protocol).data_received  # type: ignore[method-assign]

    @property
    def crowded(self) -> bool:
        """Whether it is worth a look."""
        return self._pipeline.backlogged and not self._drain.stopping

    def refusal(self, heading: Heading, protocol: HttpToolsProtocol) -> bytes | None:
        """The whole answer to what has no place, counted; None if there is one, which is then taken for this turn of the event loop."""
        started = time.perf_counter()
        if error := self._pipeline.rejection(ahead=self._passed):
            head, body = told(heading.path, error.detail, error.retry_after_seconds)
            identity = written((REQUEST_ID, self._measured.identity(heading.identity)))
            self._measured.count(heading.path, error.status, time.perf_counter() - started)
            protocol.server_state.total_requests += 1
            return b"".join(
                (head, self._common(protocol.server_state.default_headers), identity, b"\r\n", body)
            )
        if not self._passed:  # all that has arrived is read before any of it becomes a task
            protocol.loop.call_soon(self._turned)
        self._passed += 1
        return None

    def _common(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The headers that every answer of the server has, which makes a new list of them every second."""
        if headers is not self._headers:
            self._headers, self._written = headers, b"".join(map(written, headers))
        return self._written

    def _turned(self) -> None:
        self._passed = 0


class Doorway:
    """One connection: what arrives on it, before its protocol sees it."""

    def __init__(self, door: Door, protocol: HttpToolsProtocol) -> None:
        self._door = door
        self._protocol = protocol
        self._pass = protocol.data_received
        self._held = b""
        self._skip = 0
        self._armed = 0.0

    def data_received(self, data: bytes) -> None:
        """Passes `data` on, or refuses what it asks for."""
        if self._skip:  # the rest of a body that was refused
            data, self._skip = data[self._skip :], max(0, self._skip - len(data))
        held, self._held = self._held, b""
        data = held + data
        if not self._door.crowded or not (held or self._between()):
            self._on(data)
            return
        end = data.find(END) + len(END)
        heading = self._door.heading(data[:end]) if len(END) <= end <= HEAD_BYTES else None
        if heading is None or len(data) > heading.size:
            self._on(data)
        elif end == len(data) < heading.size:
            self._hold(data)
        elif answer := self._door.refusal(heading, self._protocol):
            self._skip = heading.size - len(data)
            self._answer(answer)
        else:
            self._on(data)

    def _on(self, data: bytes) -> None:
        if data:
            self._pass(data)

    def _between(self) -> bool:
        """Whether the last request has been read and answered, and nothing of the next has been passed on."""
        protocol = self._protocol
        cycle: RequestResponseCycle | None = protocol.cycle  # None until the first request
        if protocol.scope is not (cycle and cycle.scope) or protocol.transport.is_closing():
            return False
        return cycle is None or (cycle.response_complete and not cycle.more_body)

    def _hold(self, head: bytes) -> None:
        self._held = head
        self._protocol.loop.call_later(HOLD_SECONDS, self._release, head)

    def _release(self, head: bytes) -> None:
        if self._held is head and not self._protocol.transport.is_closing():
            self._held = b""
            self._pass(head)

    def _answer(self, answer: bytes) -> None:
        protocol = self._protocol
        protocol.transport.write_whole(answer)  # type: ignore[attr-defined] # it is a Joined
        now = protocol.loop.time()
        if protocol.timeout_keep_alive_task is None or now > self._armed + REARM_SECONDS:
            self._armed = now
            protocol._unset_keepalive_if_required()  # noqa: SLF001 - it has no other name
            protocol.timeout_keep_alive_task = protocol.loop.call_later(
                protocol.timeout_keep_alive, protocol.timeout_keep_alive_handler
            )


def heading_of(head: bytes, paths: Collection[str]) -> Heading | None:
    """What a request says that begins with `head`, to the empty line; None if it is nothing for a door whose routes have `paths`."""
    line = LINE.match(head)
    if line is None or (path := line[1].decode()) not in paths:
        return None
    lowered = head[:-2].lower()
    length = LENGTH.search(lowered)
    if length is None or lowered.count(b"content-length") != 1 or STRANGE.search(lowered):
        return None
    if b"\r\nconnection" in lowered and (
        lowered.count(b"\r\nconnection") != 1 or not KEPT.search(lowered)
    ):
        return None
    identity = IDENTITY.search(head[:-2])
    return Heading(path, identity[1] if identity else b"", len(head) + int(length[1]))


def written(header: tuple[bytes, bytes]) -> bytes:
    """`header` as HTTP/1.1 has it."""
    return b"%b: %b\r\n" % header


@lru_cache(maxsize=64)
def told(path: str, detail: str, seconds: int) -> tuple[bytes, bytes]:
    """The refusal of what `path` was asked: the status line with the headers that are always the same, and the body."""
    answer = problems.respond(
        Request({"type": "http", "path": path}), TooManyRequests(detail, seconds)
    )
    return b"".join((STATUS_LINE[answer.status_code], *map(written, answer.raw_headers))), bytes(
        answer.body
    )
