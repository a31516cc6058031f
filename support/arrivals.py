"""Load over raw sockets that records every single answer.

Requests are sent all at once, or one after the other on each connection. Times are seconds of the
event loop's clock.
"""

import asyncio
import re
import resource
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import uvloop

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
HOST = "127.0.0.1"
DRAIN_SECONDS = 15  # the longest wait for the last answers
SPARE_FILES = 64  # files of the process besides its connections
OPENING = 64  # connections opened at once: a server's backlog is short

Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """The answer to request `number`.

    `status` is HTTP's, 0 where the connection was lost. `sent` is the time of the request, `ended`
    that of the complete answer. `head` has no empty line.
    """

    number: int
    status: int
    sent: float
    ended: float
    head: bytes
    body: bytes

    @property
    def milliseconds(self) -> float:
        """The time from the request to the complete answer."""
        return 1000 * (self.ended - self.sent)


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries at most one request at a time.

    Calls `answered` with every answer, and `lost` when it ends without a request on it.
    """

    def __init__(
        self, answered: "Callable[[Connection, Answer], None]", lost: "Callable[[Connection], None]"
    ) -> None:
        self.usable = False
        self._answered, self._lost = answered, lost
        self._received = bytearray()
        self._pending: tuple[int, float] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Marks the connection as usable."""
        self._transport, self.usable = cast("asyncio.Transport", transport), True

    def send(self, number: int, raw: bytes) -> None:
        """Sends one request."""
        self._pending = (number, asyncio.get_running_loop().time())
        self._transport.write(raw)

    def close(self) -> None:
        """Ends the connection."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Hands the answer over once it is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if separator and len(body) >= int(length[1] if length else 0):
            self._received.clear()
            self.usable = b"\r\nconnection: close" not in head.lower()
            self._end(int(head[9:12]), bytes(head), bytes(body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Answers a request under way with status 0."""
        del exc
        self.usable = False
        if self._pending:
            self._end(0, b"", b"")
        else:
            self._lost(self)

    def _end(self, status: int, head: bytes, body: bytes) -> None:
        # A server that rejects connections answers before any request.
        if self._pending is None:
            return
        (number, sent), self._pending = self._pending, None
        self._answered(
            self, Answer(number, status, sent, asyncio.get_running_loop().time(), head, body)
        )


class Pool:
    """Connections to one port of loopback, used in turn.

    Calls `answered` with every answer, and replaces connections that are lost.
    """

    def __init__(self, port: int, answered: Callable[[Answer], None]) -> None:
        self._port = port
        self._answered = answered
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        self._all: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.busy = 0

    async def open(self, size: int) -> None:
        """Opens `size` connections."""
        files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(max(files, size + SPARE_FILES), most), most)
        )
        for start in range(0, size, OPENING):
            await asyncio.gather(*(self._connect() for _ in range(min(OPENING, size - start))))

    def close(self) -> None:
        """Closes all connections."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for connection in self._all:
            connection.close()

    async def send(self, number: int, raw: bytes) -> None:
        """Sends `raw` as soon as a connection is free.

        Raises:
            TimeoutError: No connection was free for DRAIN_SECONDS.
        """
        while True:
            connection = await asyncio.wait_for(self._free.get(), DRAIN_SECONDS)
            if connection.usable:
                self._send(connection, number, raw)
                return

    async def drained(self) -> None:
        """Waits for the outstanding answers, at most DRAIN_SECONDS."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), DRAIN_SECONDS)

    def _send(self, connection: Connection, number: int, raw: bytes) -> None:
        self.busy += 1
        self._idle.clear()
        connection.send(number, raw)

    async def _connect(self) -> None:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._on_answer, self._replace), HOST, self._port
        )
        self._all.add(connection)
        self._free.put_nowait(connection)

    def _on_answer(self, connection: Connection, answer: Answer) -> None:
        if self._closed:
            return
        self.busy -= 1
        if not self.busy:
            self._idle.set()
        self._answered(answer)
        if connection.usable:
            self._free.put_nowait(connection)
        else:
            connection.close()
            self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        if not self._closed and connection in self._all:
            self._all.remove(connection)
            task = asyncio.get_running_loop().create_task(self._connect())
            self._tasks.add(task)
            task.add_done_callback(self._replaced)

    def _replaced(self, task: asyncio.Task[None]) -> None:
        """Ignores a connection that the server rejects: the pool is smaller from then on."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


@asynccontextmanager
async def pool(port: int, size: int, answered: Callable[[Answer], None]) -> AsyncIterator[Pool]:
    """A pool of `size` open connections."""
    opened = Pool(port, answered)
    try:
        await opened.open(size)
        yield opened
    finally:
        opened.close()


async def together(port: int, requests: Sequence[bytes]) -> list[Answer]:
    """Sends all `requests` at the same moment, each on an open connection of its own."""
    answers: list[Answer] = []
    async with pool(port, len(requests), answers.append) as opened:
        for number, raw in enumerate(requests):
            await opened.send(number, raw)
        await opened.drained()
    return answers


async def closed_loop(
    port: int, requests: Iterable[bytes], connections: int, answered: Callable[[Answer], None]
) -> None:
    """Sends `requests` in order, each as soon as one of `connections` is free."""
    async with pool(port, connections, answered) as opened:
        for number, raw in enumerate(requests):
            await opened.send(number, raw)
        await opened.drained()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, run on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of `values`, NaN if there are none."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")
