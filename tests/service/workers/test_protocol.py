"""A connection sends responses in one piece, cancels work for callers that disconnect, and ends
with callers that use up its limits.
"""

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
from service.workers.connections import Connections
from service.workers.protocol import HEAD_BYTES, HEAD_SECONDS, Connection
from support.servers import eventually

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SOON = 0.05  # seconds in which loopback has delivered


class Site:
    """A small application behind real sockets.

    `seen` is what became of its requests, `gone` the number of ended connections.
    """

    def __init__(self, keep_alive):
        self.seen, self.begun, self.gone = [], asyncio.Event(), 0
        self.ended, self.bad = [], 0
        self.connections = Connections(report=self)
        paths = {
            "/plain": self.plain,
            "/echo": self.echo,
            "/headers": self.headers,
            "/early": self.early,
            "/early-close": self.early_close,
            "/flood": self.flood,
            "/stream": self.stream,
            "/wait": self.wait,
            "/twice": self.twice,
        }
        self._config = Config(
            Starlette(
                routes=[
                    Route(path, handler, methods=["GET", "POST"]) for path, handler in paths.items()
                ]
            ),
            timeout_keep_alive=keep_alive,
        )
        self._config.load()
        self._state = ServerState()

    def protocol(self):
        state = {"own": 1, protocol.CONNECTIONS: self.connections}
        connection = Connection(self._config, self._state, state, asyncio.get_running_loop())
        connection.on_close = self.count
        return connection

    @property
    def servers_connections(self):
        return self._state.connections

    def opened(self, _count):
        pass

    def closed(self, reason):
        self.ended.append(reason)

    def bad_request(self):
        self.bad += 1

    def sweep(self, seconds_later):
        self.connections.sweep(asyncio.get_running_loop().time() + seconds_later)

    def count(self):
        self.gone += 1

    async def plain(self, request):
        assert request.state.own == 1
        assert protocol.of(request.scope).body_received
        return PlainTextResponse("whole")

    async def echo(self, request):
        return PlainTextResponse(b"%d:" % len(self.seen) + await request.body())

    async def headers(self, request):
        await request.body()
        return PlainTextResponse(repr(request.scope["headers"]))

    async def early(self, _request):
        return PlainTextResponse("early", 413)

    async def early_close(self, _request):
        return PlainTextResponse("early", 413, {"Connection": "close"})

    async def flood(self, _request):
        return PlainTextResponse(bytes(30_000_000))

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


def visiting(visit, keep_alive=5):
    async def run():
        site = Site(keep_alive)
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


def test_bytes_that_are_no_request_get_400_and_are_counted():
    async def visit(site, port):
        answer = await conversation(port, b"nonsense\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert site.bad == 1

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
            b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
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


def test_the_end_of_a_connection_is_counted_once():
    async def visit(site, port):
        assert await received(port, GET % b"/plain")
        await eventually(lambda: site.gone)
        await asyncio.sleep(0.05)
        assert site.gone == 1

    visiting(visit)


@pytest.mark.parametrize("http", ["auto", "httptools"])
def test_uvicorn_takes_the_class_once_it_is_installed(http, monkeypatch):
    for name in HTTP_PROTOCOLS:
        monkeypatch.setitem(HTTP_PROTOCOLS, name, HTTP_PROTOCOLS[name])
    protocol.install()
    config = Config(Starlette(), http=http)
    config.load()
    assert config.http_protocol_class is Connection


async def conversation(port, *pieces, pause=SOON):
    """All that the server sends until it ends, to pieces that are sent one by one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number, piece in enumerate(pieces):
        await asyncio.sleep(pause if number else 0)
        writer.write(piece)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def padded(size):
    """A head of exactly `size` bytes."""
    start = b"GET /plain HTTP/1.1\r\nConnection: close\r\nX: "
    return start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"


def in_one(raw):
    return [raw]


def in_pieces(raw):
    return [raw[start : start + 10_000] for start in range(0, len(raw), 10_000)]


@pytest.mark.parametrize("cut", [in_one, in_pieces])
def test_a_head_has_at_most_so_many_bytes(cut):
    async def visit(site, port):
        answer = await conversation(port, *cut(padded(HEAD_BYTES)), pause=0.01)
        assert answer.startswith(b"HTTP/1.1 200")
        answer = await conversation(port, *cut(padded(HEAD_BYTES + 1)), pause=0.01)
        assert answer.startswith(b"HTTP/1.1 431")
        assert site.ended == ["head_size"]

    visiting(visit)


ENDLESS = {
    "lines": b"GET /plain HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
    "value": b"GET /plain HTTP/1.1\r\nx: " + b"y" * 100_000,
    "url": b"GET /" + b"y" * 100_000,
    "empty lines": b"\r\n" * 50_000,
    "trailers": POST % b"/echo" + CHUNKED + b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 20_000,
    "trailer": POST % b"/echo" + CHUNKED + b"1\r\na\r\n0\r\nx: " + b"y" * 100_000,
    "extension": POST % b"/echo" + CHUNKED + b"1;" + b"y" * 100_000,
}


@pytest.mark.parametrize("raw", ENDLESS.values(), ids=ENDLESS)
def test_nothing_but_a_body_may_be_long(raw):
    async def visit(site, port):
        answer = await conversation(port, raw)
        assert answer.count(b"HTTP/1.1") == 1
        assert answer.startswith(b"HTTP/1.1 431")
        assert site.ended == ["head_size"]

    visiting(visit)


def test_a_long_head_after_a_request_does_not_cost_that_request_its_answer():
    async def visit(_site, port):
        answer = await conversation(port, GET % b"/plain" + GET % b"/plain" + ENDLESS["value"])
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert b"connection: close" in answer

    visiting(visit)


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"", b""), (b"GET /pl", b"408"), (b"\r\n", b"408"), (GET % b"/plain" + b"GET", b"408")],
)
def test_a_head_has_its_time_and_no_byte_renews_it(raw, status):
    async def visit(site, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(raw)
        await asyncio.sleep(SOON)
        writer.write(b" " if raw.endswith((b"pl", b"GET")) else b"")
        await asyncio.sleep(SOON)
        site.sweep(HEAD_SECONDS - 1)
        assert not site.ended
        site.sweep(HEAD_SECONDS + 0.1)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.rpartition(b"HTTP/1.1 ")[2][:3] == status
        assert site.ended == ["head_time"]
        writer.close()

    visiting(visit)


def test_a_body_has_its_time_after_an_early_answer_and_the_next_request_is_read():
    async def visit(site, port):
        head = POST % b"/early" + b"Content-Length: 100000\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"x")
        await asyncio.wait_for(reader.readuntil(b"early"), 5)
        site.sweep(29)
        writer.write(bytes(99_999) + GET % b"/plain")
        await asyncio.wait_for(reader.readuntil(b"whole"), 5)
        writer.write(head + b"x")
        await asyncio.wait_for(reader.readuntil(b"early"), 5)
        writer.write(b"x")
        await asyncio.sleep(SOON)
        site.sweep(30.1)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        assert site.ended == ["body_time"]
        writer.close()

    visiting(visit)


def test_a_request_that_comes_with_the_rest_of_a_body_may_take_its_time():
    async def visit(site, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST % b"/early" + b"Content-Length: 2\r\n\r\nx")
        await asyncio.wait_for(reader.readuntil(b"early"), 5)
        writer.write(b"x" + GET % b"/twice")
        await asyncio.wait_for(reader.readuntil(b"late"), 5)
        assert site.ended == []
        writer.close()

    visiting(visit, keep_alive=0.1)


def test_an_early_answer_reaches_a_caller_that_sends_its_whole_body_first():
    async def visit(site, port):
        size = 20_000_000
        head = POST % b"/early-close" + b"Content-Length: %d\r\n\r\n" % size
        answer = await conversation(port, head, bytes(size))
        assert answer.endswith(b"early")
        await eventually(lambda: site.gone == 1)

    visiting(visit)


def test_a_caller_that_sends_on_does_not_delay_the_end_of_the_server():
    async def visit(site, port):
        wires = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for (_, writer), path in zip(wires, (b"/early", b"/early-close", b"/wait"), strict=True):
            writer.write(POST % path + b"Content-Length: 1\r\n\r\n")
        await asyncio.sleep(2 * SOON)
        for connection in list(site.servers_connections):
            connection.shutdown()
        await eventually(lambda: site.gone == 2)
        wires[2][1].write(b"x")
        await asyncio.wait_for(site.begun.wait(), 5)
        for _, writer in wires:
            writer.close()

    visiting(visit)


def test_a_caller_that_sends_on_after_the_last_answer_is_left():
    async def visit(site, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST % b"/early-close" + b"Content-Length: 100\r\n\r\n")
        await asyncio.sleep(SOON)
        site.sweep(4)
        assert not site.gone
        site.sweep(5.1)
        await eventually(lambda: site.gone == 1)
        writer.close()

    visiting(visit)


def test_a_caller_that_does_not_read_is_left():
    async def visit(site, port):
        with socket.socket() as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wire.setblocking(False)
            await asyncio.get_running_loop().sock_connect(wire, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(wire, GET % b"/flood")
            await asyncio.sleep(4 * SOON)
            site.sweep(0)
            site.sweep(59)
            assert not site.gone
            site.sweep(61)
            await eventually(lambda: site.gone == 1)
            assert site.ended == ["write_time"]

    visiting(visit)


@pytest.mark.parametrize("headers", [WEBSOCKET, H2C], ids=["websocket", "h2c"])
@pytest.mark.parametrize("cut", [in_one, lambda raw: raw.partition(b"\r\n\r\n")], ids=[1, 2])
def test_an_upgrade_is_ignored_and_the_body_read_by_its_length(headers, cut):
    inner = GET % b"/plain"
    upgrade = POST % b"/echo" + headers + b"Content-Length: %d\r\n\r\n%b" % (len(inner), inner)
    chunked = POST % b"/echo" + headers + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
    last = POST % b"/echo" + b"Connection: close\r\nContent-Length: 4\r\n\r\nlast"

    async def visit(_site, port):
        answer = await conversation(port, *cut(upgrade), chunked, last)
        assert answer.count(b"HTTP/1.1 200") == 3
        assert answer.count(b"0:" + inner) == answer.count(b"0:abc") == 1
        assert answer.endswith(b"0:last")
        answer = await conversation(port, upgrade * 50 + chunked * 50 + last)
        assert answer.count(b"HTTP/1.1 200") == 101

    visiting(visit)


def test_trailers_are_no_headers():
    async def visit(_site, port):
        chunks = [b"1\r\na\r\n", b"0\r\nAuthorization: evil\r\n\r\n"]
        head = POST % b"/headers" + b"Connection: close\r\n" + CHUNKED
        for pieces in ([head, *chunks], [head + b"".join(chunks)]):
            answer = await conversation(port, *pieces)
            assert b"transfer-encoding" in answer
            assert b"evil" not in answer

    visiting(visit)


@pytest.mark.parametrize("target", [b"evil:443", b"/plain", b"http://x/plain"])
def test_a_tunnel_is_refused(target):
    async def visit(_site, port):
        raw = b"CONNECT %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n" % target
        answer = await conversation(port, raw + GET % b"/plain")
        assert answer.count(b"HTTP/1.1") == 1
        assert answer[9:12] in {b"400", b"405"}

    visiting(visit)


def test_a_body_that_breaks_off_its_framing_ends_the_work():
    async def visit(site, port):
        answer = await conversation(port, POST % b"/wait" + CHUNKED + b"3\r\nabc", b"nonsense")
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1
        await eventually(lambda: site.gone == 1)

    visiting(visit)
