"""New connections go to the process that has the fewest, and never to nobody."""

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest

from service.workers import listener
from service.workers.listener import PATIENCE_SECONDS, Accepting
from service.workers.shared_state import SharedState
from support.servers import Server, descendants, eventually


def sockets(pid):
    """The numbers of the sockets that a process has open."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(file.readlink().name)
    return {name[8:-1] for name in found if name.startswith("socket:[")}


def established(port):
    """The numbers of the sockets of a server whose connections are open (Linux)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}


def shares(server):
    """How many connections each process has that has any."""
    found = established(server.port)
    return sorted(
        count for pid in descendants(server.process.pid) if (count := len(sockets(pid) & found))
    )


@pytest.mark.parametrize("count", [16, 64])
def test_connections_that_come_together_are_shared(two, count):
    while shares(two):
        time.sleep(0.02)
    time.sleep(0.2)  # until who has just gone is no longer counted
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
    """Says once what it hears."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def answered(port):
    """The seconds until a new connection hears what it says."""
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


def test_a_process_with_fewer_that_never_comes_is_waited_for_no_longer_than_said(tmp_path):
    async def work():
        gone, own = (SharedState(tmp_path / "shared", number) for number in (0, 1))
        gone.connected(0)
        sock, port = listening()
        server = Accepting(asyncio.get_running_loop(), sock, Echo, own)
        kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        await eventually(lambda: server._open == len(kept))
        seconds = await answered(port)
        assert PATIENCE_SECONDS <= seconds < 1
        for _, writer in kept:
            writer.close()
            await writer.wait_closed()
        server.close()
        sock.close()

    run(work)


def test_a_process_is_told_how_many_connections_another_has(tmp_path):
    async def work():
        other, own = (SharedState(tmp_path / "shared", number) for number in (0, 1))
        assert other.fewest_connections == float("inf")
        sock, port = listening()
        server = Accepting(asyncio.get_running_loop(), sock, Echo, own)
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


def test_a_server_with_tls_or_of_an_address_is_the_loops_own():
    async def work():
        loop, met = asyncio.get_running_loop(), []
        listener.share(loop, SharedState(), met.append)
        sock, port = listening()
        ours = await loop.create_server(Echo, sock=sock)
        assert isinstance(ours, Accepting)
        await answered(port)
        assert [type(protocol) for protocol in met] == [Echo]
        ours.close()
        sock.close()
        with listening()[0] as sock:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            for options in ({"host": "127.0.0.1", "port": 0}, {"sock": sock, "ssl": context}):
                theirs = await loop.create_server(Echo, **options)
                assert isinstance(theirs, asyncio.Server)
                theirs.close()

    run(work)
