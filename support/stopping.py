"""Stops a server under load and looks at every request: those sent before the signal are answered, later ones refused, and it ends with 0.

The load is closed: as many requests are under way as there are connections. A request counts as sent before the signal if its last byte
was written before `kill` was called. Between the signal and the first refusal some milliseconds pass, in which a request may be answered
or refused; `SLACK_SECONDS` later nothing must be answered with 200 any more.
"""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from support import arrivals
from support.arrivals import Answer

SLACK_SECONDS = 0.5
OK, UNAVAILABLE, LOST = 200, 503, 0
RETRY_SECONDS = 0.01


@dataclass
class Stop:
    """What became of the requests that were sent before and after the signal, by status; 0 is a lost or refused connection."""

    before: Counter[int] = field(default_factory=Counter)
    after: Counter[int] = field(default_factory=Counter)
    late: int = 0  # answered with 200 although sent long after the signal
    wordless: int = 0  # refused without a reason

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nobody was answered who came too late."""
        return (
            set(self.before) == {OK}
            and not self.late
            and not self.wordless
            and UNAVAILABLE in self.after
        )


async def stop_under_load(
    port: int, raw: bytes, connections: int, seconds: float, gone: Callable[[], bool], pid: int
) -> Stop:
    """Sends `raw` over and over for `seconds`, then SIGTERM to `pid`, and goes on until the process is `gone`."""
    loop, answers = asyncio.get_running_loop(), list[Answer]()
    callers = [loop.create_task(_call(port, raw, answers, gone)) for _ in range(connections)]
    await asyncio.sleep(seconds)
    signalled = loop.time()
    os.kill(pid, signal.SIGTERM)
    await asyncio.gather(*callers)
    return _sorted(answers, signalled)


async def _call(port: int, raw: bytes, answers: list[Answer], gone: Callable[[], bool]) -> None:
    """One caller: asks again as soon as it is answered, connects again when it has to."""
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
        stop.late += answer.status == OK and answer.sent > signalled + SLACK_SECONDS
        stop.wordless += (
            answer.status == UNAVAILABLE and b"the service is stopping" not in answer.body
        )
    return stop
