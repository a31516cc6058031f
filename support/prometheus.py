"""A real Prometheus for tests: scripts/monitor beside a real server, with the rules of the repository."""

import json
import os
import signal
import subprocess
import time

import httpx

from support.servers import ROOT, free_port

READY_SECONDS, STOP_SECONDS = 30, 15


class Prometheus:
    """`scripts/monitor` for the service on `port`, ready when entered. It looks every second."""

    def __init__(self, folder, port):
        self.folder = folder
        own = free_port()
        self._environment = os.environ | {
            "CANDOR_PORT": str(port),
            "PROMETHEUS_PORT": str(own),
            "PROMETHEUS_FOLDER": str(folder),
            "SCRAPE_INTERVAL": "1s",
        }
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{own}", timeout=30)

    def __enter__(self):
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

    def __exit__(self, *_):
        self.client.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_SECONDS)

    def query(self, expression):
        """The result of an instant query: a list of labels with a value."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", json.dumps(answer)
        return answer["data"]["result"]

    def get(self, path):
        """The data of an API answer."""
        return self.client.get(f"/api/v1/{path}").json()["data"]

    def wait_for(self, expression, seconds=30):
        """Waits until there is a result."""
        end = time.monotonic() + seconds
        while not (found := self.query(expression)):
            assert time.monotonic() < end, f"{expression} gave nothing for {seconds} s"
            time.sleep(0.2)
        return found

    def _ready(self):
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False
