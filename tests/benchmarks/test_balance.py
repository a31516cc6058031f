"""The balance of the simulation is that of a real HAProxy, request by request."""

import asyncio
import random
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks.queueing import Costs, Request, Setup, Simulation
from support.proxies import haproxy
from support.servers import free_port

SETTLE_SECONDS = 0.05  # until HAProxy has counted the end of an answer
ASK = b"GET /%d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def closed(writer):
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


class Backend:
    """A server that answers health checks at once, and other requests when it is let."""

    def __init__(self):
        self.reached = asyncio.Queue()
        self.free = {}

    async def __call__(self, number, reader, writer):
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                path = line.split()[1].decode()
                if path != "/readyz":
                    self.free[path] = asyncio.Event()
                    self.reached.put_nowait(number)
                    await self.free[path].wait()
                writer.write(ANSWER)
        finally:
            await closed(writer)


@asynccontextmanager
async def behind(folder, balance):
    """The port of HAProxy before two such servers, and what they share."""
    backend, ports = Backend(), (free_port(), free_port())
    servers = [
        await asyncio.start_server(
            lambda reader, writer, number=number: backend(number, reader, writer), "127.0.0.1", port
        )
        for number, port in enumerate(ports)
    ]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    # It waits until HAProxy listens; the servers answer meanwhile.
    running = haproxy(folder, addresses, balance)
    port = await asyncio.to_thread(running.__enter__)
    try:
        await asyncio.sleep(2)  # two checks: both are up
        yield port, backend
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)
        for server in servers:
            server.close()
        await asyncio.sleep(SETTLE_SECONDS)  # connections of checks end


def scene(steps):
    """A list of True, a request begins, and of False, one ends; the same in every run."""
    drawn, open_, found = random.Random(0), 0, []
    for _ in range(steps):
        begins = open_ == 0 or (open_ < 8 and drawn.random() < 0.55)
        open_ += 1 if begins else -1
        found.append((begins, drawn.random()))
    return found


def simulated(balance, steps):
    """The server of each request of the scene."""
    simulation = Simulation(Costs(lambda *_: 0.0), Setup(balance=balance), seed=0)
    running, chosen = [], []
    for begins, which in scene(steps):
        if begins:
            server = simulation._balanced()
            request = Request(0, 0.0, 1.0, server, server.workers[0])
            simulation._count(request, 1)
            running.append(request)
            chosen.append(server.number)
        else:
            simulation._count(running.pop(int(which * len(running))), -1)
    return chosen


async def ended(backend, number, reader, writer):
    """Lets the server answer a request, and reads the answer."""
    backend.free[f"/{number}"].set()
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    await closed(writer)


async def real(folder, balance, steps):
    async with behind(folder, balance) as (port, backend):
        running, chosen = [], []
        for begins, which in scene(steps):
            if begins:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(ASK % len(chosen))
                async with asyncio.timeout(20):
                    running.append((len(chosen), reader, writer))
                    chosen.append(await backend.reached.get())
            else:
                await ended(backend, *running.pop(int(which * len(running))))
            await asyncio.sleep(SETTLE_SECONDS)
        for one in running:
            await ended(backend, *one)
        return chosen


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin"])
def test_a_request_goes_where_haproxy_sends_it(balance, tmp_path):
    """Up to the name of the first server, which is HAProxy's choice."""
    ours = simulated(balance, 80)
    theirs = asyncio.run(real(tmp_path, balance, 80))
    first = theirs[0] ^ ours[0]
    assert [number ^ first for number in theirs] == ours
