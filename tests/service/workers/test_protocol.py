"""A connection sends responses in one piece, and cancels work for callers that disconnect."""

import asyncio
import socket

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from uvicorn import Config
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.server import ServerState

from service.api.tasks import GONE, cancel_on_disconnect
from service.workers import protocol
from service.workers.protocol import Connection
from support.servers import eventually

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Site:
    """A small application behind real sockets.

    `seen` is what became of its requests, `closed` the number of ended connections.
    """

    def __init__(self):
        self.seen, self.begun, self.closed = [], asyncio.Event(), 0
        paths = {
            "/plain": self.plain,
            "/stream": self.stream,
            "/wait": self.wait,
            "/twice": self.twice,
        }
        self._config = Config(
            Starlette(
                routes=[
                    Route(path, handler, methods=["GET", "POST"]) for path, handler in paths.items()
                ]
            )
        )
        self._config.load()
        self._state = ServerState()

    def protocol(self):
        connection = Connection(self._config, self._state, {"own": 1}, asyncio.get_running_loop())
        connection.on_close = self.count
        return connection

    def count(self):
        self.closed += 1

    async def plain(self, request):
        assert request.state.own == 1
        assert protocol.of(request.scope).body_received
        return PlainTextResponse("whole")

    async def stream(self, _request):
        async def parts():
            for part in ("a", "b"):
                yield part
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())

    async def wait(self, request: Request):
        await request.body()

        async def work():
            self.begun.set()
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise

        answer = await cancel_on_disconnect(request, work())
        self.seen.append(answer.status_code)
        await asyncio.sleep(0)  # it is no longer being cancelled
        self.seen.append(asyncio.current_task().cancelling())
        return answer

    async def twice(self, request):
        async def work():
            return PlainTextResponse("done")

        await cancel_on_disconnect(request, work())
        self.begun.set()
        await asyncio.sleep(0.2)
        self.seen.append("went on")
        return PlainTextResponse("late")


def visiting(visit):
    async def run():
        site = Site()
        server = await asyncio.get_running_loop().create_server(site.protocol, "127.0.0.1", 0)
        async with server:
            await visit(site, server.sockets[0].getsockname()[1])

    asyncio.run(run())


async def received(port, raw):
    """The bytes that the first read from the socket returns."""
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.setblocking(False)
        await loop.sock_sendall(wire, raw)
        return await asyncio.wait_for(loop.sock_recv(wire, 65_536), 5)


def test_a_response_arrives_in_one_piece():
    async def visit(_site, port):
        for _ in range(20):
            assert (await received(port, GET % b"/plain")).endswith(b"\r\n\r\nwhole")

    visiting(visit)


def test_a_rejection_by_uvicorn_arrives_whole_before_the_end():
    async def visit(_site, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(
            b"Invalid HTTP request received."
        )
        writer.close()

    visiting(visit)


def test_a_stream_is_not_kept_back():
    async def visit(_site, port):
        assert (await received(port, GET % b"/stream")).endswith(b"1\r\na\r\n")

    visiting(visit)


@pytest.mark.parametrize("body", [b"", bytes(10), bytes(300_000)])
def test_work_for_a_caller_that_disconnects_is_cancelled(body):
    async def visit(site, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /wait HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await asyncio.wait_for(site.begun.wait(), 5)
        writer.close()
        await eventually(lambda: len(site.seen) == 3)
        assert site.seen == ["cancelled", GONE, 0]

    visiting(visit)


def test_a_caller_that_disconnects_after_the_work_disturbs_nothing():
    async def visit(site, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % b"/twice")
        await asyncio.wait_for(site.begun.wait(), 5)
        writer.close()
        await eventually(lambda: site.seen)
        assert site.seen == ["went on"]

    visiting(visit)


@pytest.mark.parametrize("raw", [GET % b"/plain", UPGRADE], ids=["http", "websocket"])
def test_the_end_of_a_connection_is_counted_once(raw):
    async def visit(site, port):
        assert await received(port, raw)
        await eventually(lambda: site.closed)
        await asyncio.sleep(0.05)
        assert site.closed == 1

    visiting(visit)


@pytest.mark.parametrize("http", ["auto", "httptools"])
def test_uvicorn_takes_the_class_once_it_is_installed(http, monkeypatch):
    for name in HTTP_PROTOCOLS:
        monkeypatch.setitem(HTTP_PROTOCOLS, name, HTTP_PROTOCOLS[name])
    protocol.install()
    config = Config(Starlette(), http=http)
    config.load()
    assert config.http_protocol_class is Connection
