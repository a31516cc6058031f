"""A server stopped under calls of gRPC, with the fate of every call.

Calls sent before the signal, and within the window after it, must be answered; later ones must be
rejected as unavailable. The load is a closed loop of callers, each with a connection of its own.
"""

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.api.grpc import SERVICE
from service.workers.drain import WINDOW_SECONDS
from support.rpc import APART
from support.servers import descendants
from support.stopping import SLACK_SECONDS

SECONDS = 30
OK, REJECTED = "OK", "UNAVAILABLE"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Stop:
    """The calls sent before the signal, within the window, and later, by code; `words` are the
    details of those that failed.
    """

    before: Counter[str] = field(default_factory=Counter)
    within: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    ticks: dict[int, int] = field(default_factory=dict)  # of each worker at the signal
    health: int = 0  # as the health service has it, within the window

    @property
    def clean(self) -> bool:
        """True if no call of before or of the window was lost, later ones were rejected, and the
        health service said so.
        """
        rejected = set(self.after) <= {OK, REJECTED} and self.health == NOT_SERVING
        return set(self.before) == set(self.within) == {OK} and rejected


async def stop_under_calls(
    port: int, body: bytes, callers: int, seconds: float, server: subprocess.Popen[bytes]
) -> Stop:
    """Sends the message `body` over and over until `server` is gone; after `seconds` it gets
    SIGTERM.
    """
    loop, calls = asyncio.get_running_loop(), list[tuple[float, str, str]]()
    tasks = [
        loop.create_task(_call(port, body, calls, lambda: server.poll() is not None))
        for _ in range(callers)
    ]
    await asyncio.sleep(seconds)
    used, signalled = ticks(server.pid), loop.time()
    server.send_signal(signal.SIGTERM)
    await asyncio.sleep(SLACK_SECONDS)
    health = await _health(port)
    await asyncio.gather(*tasks)
    return replace(_sorted(calls, signalled), ticks=used, health=health)


async def _health(port: int) -> int:
    """The status that the health service gives."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=APART) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        # A connection that nobody has taken yet is reset when its worker ends: another is tried.
        answer = await stub.Check(
            health_pb2.HealthCheckRequest(), timeout=SECONDS, wait_for_ready=True
        )
        return int(answer.status)


def ticks(pid: int) -> dict[int, int]:
    """The processor time of each worker of a server, in ticks of the system's clock."""
    return {
        worker: int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[11])
        for worker in descendants(pid)
        if "onnxruntime" in Path(f"/proc/{worker}/maps").read_text()
    }


async def _call(
    port: int, body: bytes, calls: list[tuple[float, str, str]], gone: Callable[[], bool]
) -> None:
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=APART) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        while not gone():
            sent = loop.time()
            try:
                await infer(body, timeout=SECONDS)
                calls.append((sent, OK, ""))
            except grpc.aio.AioRpcError as error:
                calls.append((sent, error.code().name, error.details() or ""))
                await asyncio.sleep(0.01)


def _sorted(calls: list[tuple[float, str, str]], signalled: float) -> Stop:
    stop = Stop()
    for sent, code, words in calls:
        after = sent - signalled
        times = stop.before if after < 0 else stop.after
        if 0 <= after < WINDOW_SECONDS - SLACK_SECONDS:
            times = stop.within
        times[code] += 1
        if words:
            stop.words[words] += 1
    return stop
