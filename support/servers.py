"""Real servers for tests: on loopback, on a free port, with a BENTOML_HOME of their own."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import httpx

from service import TELEMETRY_OFF

ROOT = Path(__file__).parent.parent
READY_SECONDS = 150  # a server starts in three; a machine may be crowded by forty times
STOP_SECONDS = 30
# Answers are compared with those of an engine in float32, and a choice takes a second a start.
AS_TESTED = {"device": "cpu", "precision": "float32"}
INHERITED_NEVER = ("CANDOR_", "BENTOML_", "PROMETHEUS_")


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, directly or not; nearest first (Linux)."""
    children = list[int]()
    with suppress(OSError):  # it may end meanwhile
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            children += map(int, task.read_text().split())
    return [*children, *(further for child in children for further in descendants(child))]


def environment(home: Path, **settings: object) -> dict[str, str]:
    """The environment of a server: this process's, with `settings` instead of Candor's."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(INHERITED_NEVER)
    }
    ours = {f"CANDOR_{name.upper()}": str(value) for name, value in settings.items()}
    return clean | {"BENTOML_HOME": str(home)} | TELEMETRY_OFF | ours


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns as soon as `holds()` is true.

    Raises:
        TimeoutError: It is still false after five seconds.
    """
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.01)


class Server:
    """`python -m service serve`: ready when entered, stopped by SIGTERM when left.

    `settings` have lower-case names: Server(folder, workers=2) sets CANDOR_WORKERS.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str | Path] | None = None,
        ready_seconds: float = READY_SECONDS,
        **settings: object,
    ) -> None:
        self.port = int(str(settings.setdefault("port", free_port())))
        self.authority = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.authority}"
        self.log = folder / "server.log"
        self._command = command or [sys.executable, "-m", "service", "serve"]
        self.environment = environment(folder / "home", **AS_TESTED | settings)
        self.seconds_to_ready = 0.0
        self._ready_seconds = ready_seconds
        self.process: subprocess.Popen[bytes]
        self.client: httpx.Client

    def __enter__(self) -> Self:
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        self.client = httpx.Client(base_url=self.url, timeout=60)
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() - started > self._ready_seconds:
                self.__exit__()
                raise AssertionError(f"the server did not get ready:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.seconds_to_ready = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def workers(self) -> list[int]:
        """The process ids of the workers: the processes that have loaded onnxruntime."""
        return [
            pid
            for pid in descendants(self.process.pid)
            if "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
        ]

    def worker(self) -> int:
        """The process id of a worker."""
        found = self.workers()
        assert found, "no process of the server has loaded onnxruntime"
        return found[0]

    def metric(self, name: str) -> float:
        """The value of the metric `name`, labels included, as any worker reports it."""
        # A connection of its own: the client's belongs to one worker, which may have ended.
        text = httpx.get(f"{self.url}/metrics", timeout=5).text
        return next(
            float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")
        )

    def wait_for_processes(self, count: int) -> None:
        """Waits until `count` workers take requests.

        Raises:
            AssertionError: They do not within READY_SECONDS.
        """
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                if self.metric("candor_ready") == count:
                    return
            time.sleep(0.05)
        raise AssertionError(
            f"{count} workers were not ready after {READY_SECONDS} s:\n{self.log.read_text()}"
        )

    def _ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
