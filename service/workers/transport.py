"""A transport that joins writes, and reads on after an early answer (a lingering close).

To close a socket that has unread bytes resets the connection, and the caller may lose the answer.
"""

import asyncio
from collections.abc import Callable
from typing import Any

RESPONSE = b"HTTP/1."  # how the head of a response begins


class JoiningTransport:
    """A transport that keeps the head of a response for the next write, or to the end of the event
    loop's turn.

    uvicorn writes head and body one by one; uvloop makes a system call and a packet of each.
    `lingers` is asked at `close`: if it is true, the caller is still sending, and only our side
    closes. A second `close` is the end.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        lingers: Callable[[], bool] | None = None,
    ) -> None:
        self.lingers = lingers
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._half_closed = False

    def write(self, data: bytes) -> None:
        """Writes `data` after the head that was kept, or keeps it."""
        if self._half_closed:
            return
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

    def half_close(self) -> None:
        """Writes no more; reads on."""
        self._flush()
        self._half_closed = True
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Writes the head that was kept, and closes."""
        if self._half_closed or self.lingers is None or not self.lingers():
            self.end()

    def end(self) -> None:
        """Closes, whether the caller is sending or not."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """True once nothing more is written."""
        return self._half_closed or self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)
