"""A new connection goes to the worker that has the fewest, and is never left to nobody."""

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from starlette.applications import Starlette
from uvicorn import Config
from uvicorn.server import ServerState

from service.workers import listener
from service.workers.listener import PATIENCE_SECONDS, SharedListener
from service.workers.protocol import Connection
from service.workers.shared_state import SharedState
from support import arrivals, load
from support.images import draw, encode
from support.servers import Server, descendants, eventually


def sockets(pid):
    """The numbers of a process's open sockets."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(file.readlink().name)
    return {name[8:-1] for name in found if name.startswith("socket:[")}


def established(port):
    """The numbers of a server's sockets that are connected (Linux)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}


def shares(server):
    """The number of connections of each process that has any."""
    found = established(server.port)
    return sorted(
        count for pid in descendants(server.process.pid) if (count := len(sockets(pid) & found))
    )


@pytest.mark.parametrize("count", [16, 64])
def test_connections_that_come_together_are_shared(two, count):
    while shares(two):
        time.sleep(0.02)
    time.sleep(0.2)  # until the connections that have just ended are no longer counted
    opened = [socket.create_connection(("127.0.0.1", two.port)) for _ in range(count)]
    try:
        end = time.monotonic() + 5
        while sum(shares(two)) < count and time.monotonic() < end:
            time.sleep(0.02)
        fewer, more = shares(two)
        assert fewer + more == count
        assert more - fewer <= 2 * max(1, count // 8)
    finally:
        for one in opened:
            one.close()
        while shares(two):
            time.sleep(0.02)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("two"), workers=2) as server:
        server.wait_for_processes(2)
        server.client.close()
        yield server


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    on_close = None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, _exc):
        if self.on_close:
            self.on_close()

    def data_received(self, data):
        self.transport.write(data)


async def answered(port):
    """The seconds until a new connection has its echo."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    writer.close()
    await writer.wait_closed()
    return time.perf_counter() - began


def listening():
    found = socket.create_server(("127.0.0.1", 0))
    return found, found.getsockname()[1]


def run(work):
    return asyncio.run(work())


def test_a_worker_with_fewer_that_never_comes_is_waited_for_a_bounded_time(tmp_path):
    async def work():
        gone, own = (SharedState(tmp_path / "shared", number) for number in (0, 1))
        gone.connected(0)
        sock, port = listening()
        server = SharedListener(asyncio.get_running_loop(), sock, Echo, own)
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        await eventually(lambda: server._open == len(kept))
        seconds = await answered(port)
        assert seconds >= PATIENCE_SECONDS
        for _, writer in kept:
            writer.close()
            await writer.wait_closed()
        server.close()
        sock.close()

    run(work)


def test_a_worker_sees_how_many_connections_another_has(tmp_path):
    async def work():
        other, own = (SharedState(tmp_path / "shared", number) for number in (0, 1))
        assert other.fewest_connections == float("inf")
        sock, port = listening()
        server = SharedListener(asyncio.get_running_loop(), sock, Echo, own)
        assert other.fewest_connections == 0
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await answered(port)
        await eventually(lambda: other.fewest_connections == 1)
        writer.close()
        await eventually(lambda: other.fewest_connections == 0)
        server.close()
        assert other.fewest_connections == float("inf")
        sock.close()

    run(work)


def connections():
    """A factory of connections, as uvicorn's server has one."""
    config, state = Config(Starlette()), ServerState()
    config.load()
    return lambda: Connection(config, state, {}, asyncio.get_running_loop())


def test_a_server_of_a_socket_shares_its_connections_and_reports_its_address():
    async def work():
        loop, addresses = asyncio.get_running_loop(), []
        listener.share(loop, SharedState(), addresses.append)
        sock, port = listening()
        server = await loop.create_server(connections(), sock=sock)
        assert isinstance(server, SharedListener)
        assert server.is_serving()
        assert (server.get_loop(), server.sockets) == (loop, (sock,))
        assert addresses == [f"http://127.0.0.1:{port}"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)) == b"HTTP/1.1 404 Not Found\r\n"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        assert not server.is_serving()
        sock.close()

    run(work)


def test_a_server_with_tls_or_of_an_address_or_of_another_protocol_is_the_loops_own(
    caplog, monkeypatch, tmp_path
):
    monkeypatch.setattr(logging.getLogger("candor"), "propagate", True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    async def work():
        loop, addresses = asyncio.get_running_loop(), []
        listener.share(loop, SharedState(tmp_path / "shared", 0), addresses.append)
        factory = connections()
        with listening()[0] as sock, listening()[0] as other:
            for make, options in (
                (factory, {"host": "127.0.0.1", "port": 0}),
                (factory, {"sock": sock, "ssl": context}),
                (Echo, {"sock": other}),
            ):
                server = await loop.create_server(make, **options)
                assert isinstance(server, asyncio.Server)
                server.close()
        return addresses

    plain, tls, foreign = run(work)
    assert plain.startswith("http://127.0.0.1:")
    assert tls.startswith("https://127.0.0.1:")
    assert foreign.startswith("http://127.0.0.1:")
    about_tls, about_echo = caplog.messages
    assert about_tls.startswith("with TLS the event loop accepts the connections")
    assert about_echo.startswith("HTTP is served by uvicorn's Echo instead of Candor's own class")


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (("0.0.0.0", 3000), "http://localhost:3000"),  # noqa: S104
        (("127.0.0.1", 80), "http://127.0.0.1:80"),
        (("::1", 3000, 0, 0), "http://[::1]:3000"),
        (("::", 3000, 0, 0), "http://localhost:3000"),
        ("/run/candor.sock", "/run/candor.sock"),
    ],
)
def test_an_address_is_one_that_a_browser_takes(name, url):
    assert listener.address(name, tls=False) == url
    assert listener.address(name, tls=True) == url.replace("http:", "https:")


OTHER = """
import sys, warnings
warnings.simplefilter("ignore")
import uvicorn
from service.app import Candor
uvicorn.run(Candor.to_asgi(), port=int(sys.argv[1]), http="h11", log_level="warning")
"""
IMAGE, PNG = encode(draw(size=64)), {"content-type": "image/png"}


def test_a_server_on_another_protocol_class_answers_and_warns(tmp_path):
    server = Server(tmp_path, workers=1)
    server._command = [sys.executable, "-c", OTHER, str(server.port)]
    with server:
        for path in ("/predict", "/explain?method=grad_cam"):
            assert server.client.post(path, content=IMAGE, headers=PNG).status_code == 200
        for path in ("/v1/models", "/v2/health/ready", "/readyz", "/schema.json"):
            assert server.client.get(path).status_code == 200
        # A fast machine predicts as fast as it reads, and would reject nothing.
        raw = load.image("/explain?method=saliency", IMAGE, "png").raw()
        together = arrivals.run(arrivals.together(server.port, [raw] * 900))
        assert {answer.status for answer in together} == {200, 429}
        assert server.metric('candor_requests_total{code="429",route="/explain"}') > 0
    log = server.log.read_text()
    assert "HTTP is served by uvicorn's H11Protocol instead of Candor's own class" in log
    assert f"Candor: {server.url} (cifar10" in log
    assert "Traceback" not in log


def test_a_server_with_tls_answers(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", *kind, *names, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = Server(tmp_path, workers=2)
    server.url = server.url.replace("http:", "https:")
    server._command = [sys.executable, "-m", "bentoml", "serve", "service.app:Candor"]
    server._command += ["--host", "127.0.0.1", "--port", str(server.port)]
    server._command += ["--ssl-certfile", str(certificate), "--ssl-keyfile", str(key)]
    with server:
        server.wait_for_processes(2)
        response = server.client.post("/predict", content=IMAGE, headers=PNG)
        assert response.status_code == 200
        assert response.json()["image"]["width"] == 64
    log = server.log.read_text()
    assert "with TLS the event loop accepts the connections" in log
    assert f"Candor: {server.url} (cifar10" in log
