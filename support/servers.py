"""Real servers for tests: loopback, a free port, a BENTOML_HOME of their own, stopped by their own process id."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
READY_SECONDS = 60
STOP_SECONDS = 30


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid):
    """The processes that a process has started, nearest first."""
    listed = [
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text().split()
    ]
    return [*listed, *(further for child in listed for further in descendants(child))]


def environment(home, **settings):
    """The environment of a server: nothing of Candor's is inherited."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CANDOR_", "BENTOML_", "PROMETHEUS_"))
    }
    return (
        clean
        | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "true"}
        | {f"CANDOR_{k.upper()}": str(v) for k, v in settings.items()}
    )


async def eventually(holds):
    """Returns when it does, within five seconds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


class Server:
    """`python -m service serve`, ready when entered, told to stop and waited for when left."""

    def __init__(self, folder: Path, command=None, **settings):
        self.port = settings.setdefault("port", free_port())
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self._command = command or [sys.executable, "-m", "service", "serve"]
        self._environment = environment(folder / "home", device="cpu", **settings)
        self.seconds_to_ready = 0.0

    def __enter__(self):
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        self.client = httpx.Client(base_url=self.url, timeout=60)
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                self.__exit__()
                raise AssertionError(f"the server did not get ready:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.seconds_to_ready = time.monotonic() - started
        return self

    def __exit__(self, *_):
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def worker(self):
        """The process id that answers requests: one that holds onnxruntime."""
        for pid in descendants(self.process.pid):
            if "onnxruntime" in Path(f"/proc/{pid}/maps").read_text():
                return pid
        raise AssertionError("no process of the server has loaded onnxruntime")

    def metric(self, name):
        """The value of a metric, named with its labels, over a connection of its own: whichever process answers."""
        text = httpx.get(f"{self.url}/metrics", timeout=5).text
        return next(
            float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")
        )

    def wait_for_processes(self, count):
        """Waits until so many take requests."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                if self.metric("candor_ready") == count:
                    return
            time.sleep(0.05)
        raise AssertionError(
            f"there are not {count} processes after {READY_SECONDS} s:\n{self.log.read_text()}"
        )

    def _ready(self):
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False
