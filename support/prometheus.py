"""A real Prometheus for tests: scripts/monitor beside a real server."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx

from support.servers import ROOT, free_port

READY_SECONDS, STOP_SECONDS = 30, 15


class Prometheus:
    """`scripts/monitor` for the service on `port`, as a context manager; scrapes every second, with
    the key in `key_file` if there is one.
    """

    def __init__(self, folder: Path, port: int, key_file: Path | None = None) -> None:
        self.folder = folder
        own = free_port()
        self._environment = os.environ | {
            "CANDOR_PORT": str(port),
            "PROMETHEUS_PORT": str(own),
            "PROMETHEUS_FOLDER": str(folder),
            "SCRAPE_INTERVAL": "1s",
            "PROMETHEUS_KEY_FILE": str(key_file or ""),
        }
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=30)
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        log = self.folder / "monitor.log"
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [ROOT / "scripts" / "monitor"],
                cwd=ROOT,
                env=self._environment,
                stdout=sink,
                stderr=sink,
            )
        started = time.monotonic()
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                self.__exit__()
                raise AssertionError(f"Prometheus did not get ready:\n{log.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_SECONDS)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query: labels with a value each."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", json.dumps(answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def get(self, path: str) -> Any:
        """The data of an API answer."""
        return self.client.get(f"/api/v1/{path}").json()["data"]

    def wait_for(self, expression: str, seconds: float = 30) -> list[dict[str, Any]]:
        """The result of `expression`, as soon as there is one.

        Raises:
            AssertionError: There is none within `seconds`.
        """
        end = time.monotonic() + seconds
        while not (result := self.query(expression)):
            assert time.monotonic() < end, f"{expression} gave nothing for {seconds} s"
            time.sleep(0.2)
        return result

    def _ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
