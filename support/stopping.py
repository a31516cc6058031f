"""A server stopped under load, with the fate of every request.

Requests sent before the signal must be answered, and so must those of the window after it, each
with `Connection: close`; later ones must be rejected. The load is a closed loop of callers that
keep their connection as long as they may, and connect again. A request counts as sent before the
signal if its last byte was written before `kill` was called. Some milliseconds pass between the
signal and what follows from it: SLACK_SECONDS later an answer that keeps its connection is wrong,
and a 200 that long after the window.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from service.workers.drain import WINDOW_SECONDS
from support import arrivals
from support.arrivals import Answer

SLACK_SECONDS = 1.0
OK, UNAVAILABLE, LOST = 200, 503, 0
RETRY_SECONDS = 0.01


@dataclass
class Stop:
    """The requests sent before and after the signal, counted by status.

    Status 0 is a lost or rejected connection.
    """

    before: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)
    kept: int = 0  # answered without `Connection: close` although sent long after the signal
    early: int = 0  # lost, or answered otherwise than with 200, although sent within the window
    late: int = 0  # answered with 200 although sent long after the window
    unexplained: int = 0  # rejected without a reason

    @property
    def clean(self) -> bool:
        """True if no request sent before was lost, and later ones were answered as they must be."""
        return (
            set(self.before) == {OK}
            and not self.kept
            and not self.early
            and not self.late
            and not self.unexplained
            and UNAVAILABLE in self.after
        )


async def stop_under_load(
    port: int, raw: bytes, connections: int, seconds: float, gone: Callable[[], bool], pid: int
) -> Stop:
    """Sends `raw` over and over until `gone()`; after `seconds` SIGTERM goes to `pid`."""
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    callers = [loop.create_task(_call(port, raw, answers, gone)) for _ in range(connections)]
    await asyncio.sleep(seconds)
    signalled = loop.time()
    os.kill(pid, signal.SIGTERM)
    await asyncio.gather(*callers)
    return _sorted(answers, signalled)


async def _call(port: int, raw: bytes, answers: list[Answer], gone: Callable[[], bool]) -> None:
    """Sends again as soon as it is answered, and connects again when it has to."""
    while not gone():
        with suppress(OSError):
            await _converse(port, raw, answers)
        await asyncio.sleep(RETRY_SECONDS)


async def _converse(port: int, raw: bytes, answers: list[Answer]) -> None:
    loop = asyncio.get_running_loop()
    answered: asyncio.Queue[Answer | None] = asyncio.Queue()
    _, connection = await loop.create_connection(
        lambda: arrivals.Connection(
            lambda _, answer: answered.put_nowait(answer), lambda _: answered.put_nowait(None)
        ),
        arrivals.HOST,
        port,
    )
    try:
        while connection.usable:
            connection.send(len(answers), raw)
            answer = await asyncio.wait_for(answered.get(), arrivals.DRAIN_SECONDS)
            if answer is None:
                return
            answers.append(answer)
    finally:
        connection.close()


def _sorted(answers: list[Answer], signalled: float) -> Stop:
    stop = Stop()
    for answer in answers:
        (stop.before if answer.sent < signalled else stop.after)[answer.status] += 1
        after = answer.sent - signalled
        closes = b"\r\nconnection: close" in answer.head.lower()
        stop.kept += bool(answer.status) and after > SLACK_SECONDS and not closes
        stop.early += answer.status != OK and 0 < after < WINDOW_SECONDS - SLACK_SECONDS
        stop.late += answer.status == OK and after > WINDOW_SECONDS + SLACK_SECONDS
        stop.unexplained += (
            answer.status == UNAVAILABLE and b"the service is stopping" not in answer.body
        )
    return stop
