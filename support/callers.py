"""Callers that ask for predictions all the time, each over a connection of its own."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Seen:
    """An answer: when it was asked for (`time.monotonic`), after how many seconds it came, its
    status, and of a prediction the model, the version and the probability.
    """

    at: float
    seconds: float
    status: int
    model: str = ""
    version: str = ""
    probability: float = 0.0


class Callers:
    """So many callers of the server at `port`, who send `body` to `path()`; entered and left."""

    def __init__(self, port: int, count: int, body: bytes, path: Callable[[], str]) -> None:
        self.seen: list[Seen] = []
        self._port, self._body, self._path = port, body, path
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def since(self, at: float) -> list[Seen]:
        """The answers to what was asked at `at` or later."""
        return [seen for seen in list(self.seen) if seen.at >= at]

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._ended.is_set():
            started = time.monotonic()
            try:
                connection.request("POST", self._path(), self._body)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                self.seen.append(Seen(started, time.monotonic() - started, 0))
                connection.close()
                continue
            self.seen.append(_seen(started, answer.status, text))
        connection.close()


def _seen(started: float, status: int, text: bytes) -> Seen:
    seconds = time.monotonic() - started
    if status != 200:
        return Seen(started, seconds, status)
    found = json.loads(text)
    model = found["model"]
    return Seen(started, seconds, status, model["name"], model["version"], found["probability"])
