"""One connection, between uvicorn's protocol and its transport.

uvicorn writes an answer's head and its body one by one, each of which is a system call and a packet: here they leave together. Whoever works
for the caller can be told that the connection is lost, without a task that waits for it. And what arrives may be refused before the
protocol sees it (`service.api.overload`).

A connection that has ended leaves nothing for the garbage collector: a thousand that end together would else be a pause of a fifth of a
second in the midst of others' requests.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

STATE = "connection"  # under this name a request's scope has its connection in "state"
HEAD = b"HTTP/1."
REPLACED = (
    "connection_made",
    "connection_lost",
    "data_received",
)  # of a protocol, by methods that know it


class Joined:
    """A transport on which an answer's head leaves with what is written next, or at the end of the turn of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """Writes `data` after what was kept, or keeps it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def write_whole(self, answer: bytes) -> None:
        """Writes an answer that is complete."""
        self._flush()
        self._transport.write(answer)

    def close(self) -> None:
        """Writes what was kept, and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)


class Connection:
    """Stands around `protocol` from now on."""

    def __init__(self, protocol: HttpToolsProtocol) -> None:
        self._protocol = weakref.ref(protocol)
        self.lost = False
        self._leaving: list[Callable[[], object]] = []
        protocol.connection_made = self._on_made  # type: ignore[method-assign]
        protocol.connection_lost = self._on_lost  # type: ignore[method-assign]
        protocol.app_state = {**protocol.app_state, STATE: self}

    @property
    def protocol(self) -> HttpToolsProtocol:
        """What it stands around, which lives as long as it has a transport or a request that is being answered."""
        protocol = self._protocol()
        assert protocol is not None
        return protocol

    @property
    def has_sent(self) -> bool:
        """Whether the request that is being answered has arrived with its whole body."""
        return not self.protocol.cycle.more_body

    @contextmanager
    def telling(self, leave: Callable[[], object]) -> Iterator[None]:
        """Calls `leave` if the connection is lost while what is inside runs."""
        self.protocol.flow.resume_reading()  # who does not read does not see the end
        self._leaving.append(leave)
        try:
            yield
        finally:
            self._leaving.remove(leave)

    def _on_made(self, transport: asyncio.Transport) -> None:
        HttpToolsProtocol.connection_made(self.protocol, Joined(transport, self.protocol.loop))  # type: ignore[arg-type]

    def _on_lost(self, exc: Exception | None) -> None:
        self.lost = True
        for leave in self._leaving:
            leave()
        protocol = self.protocol
        HttpToolsProtocol.connection_lost(protocol, exc)
        for name in REPLACED:
            protocol.__dict__.pop(name, None)


def around(protocol: asyncio.BaseProtocol) -> Connection | None:
    """The connection of a new `protocol`; None if it is not one of uvicorn's that is known here."""
    return Connection(protocol) if isinstance(protocol, HttpToolsProtocol) else None


def of(scope: Scope) -> Connection | None:
    """The connection on which a request came."""
    found: Connection | None = scope.get("state", {}).get(STATE)
    return found
