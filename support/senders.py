"""Threads that keep a server busy while a test measures something else."""

import threading
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Self

LAST_ANSWER_SECONDS = 90


class Senders:
    """Threads that send until the block ends; `statuses` counts the answers by status.

    Each of `sends` sends a request whenever a thread asks it for the next status.
    """

    def __init__(self, sends: Iterable[Generator[int, None, None]]) -> None:
        self.statuses: Counter[int] = Counter()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(each,)) for each in sends]

    def __enter__(self) -> Self:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join(LAST_ANSWER_SECONDS)

    def _send(self, statuses: Generator[int, None, None]) -> None:
        with closing(statuses):
            for status in statuses:
                self.statuses[status] += 1
                if self._ended.is_set():
                    return
