"""SIGTERM and SIGINT as a request to stop in order."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any


@contextmanager
def stop_event() -> Iterator[Event]:
    """An event that the first SIGTERM or SIGINT sets, for the main thread.

    A second signal of the same kind has its usual effect, so that nobody waits for a stop that
    hangs. The handlers of before return at the end.
    """
    stop = Event()
    before: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }

    def handle(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
