"""All open connections of one process, and the limits that they share.

A process has at most `most` connections, and `per_address` from one address; for one more, the
oldest idle one ends. Answers that callers do not read have at most `most_unread_bytes`; beyond, the
callers with the most of them end. `keep_sweeping` ends those that use up their time: any byte
disarms uvicorn's only timer. Times are seconds of the event loop's clock.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from service.errors import RequestError

SWEEP_SECONDS = 1.0
RETIRE_SPREAD = 0.1  # of the greatest age: a service's connections do not end together
SPARE_FILES = 96  # of the process beside its connections, those that it accepts or ends included
MOST = 8_192  # connections by default: idle ones take about 6 KiB each
LOG_SECONDS = 60.0  # between two lines about bad requests
REASONS = (
    "head_time", "head_size", "body_time", "write_time", "unread", "idle", "limit", "address"
)  # fmt: skip

log = logging.getLogger("candor")


@runtime_checkable
class Ending(Protocol):
    """A connection, as its limits see it."""

    client: tuple[str, int] | None

    @property
    def quiet(self) -> bool:
        """True while nothing of the next request has come, and all answers have left."""

    @property
    def unread_bytes(self) -> int:
        """The bytes of answers that wait in our memory until the caller reads."""

    def check(self, now: float) -> None:
        """Ends the connection if it has used up its time."""

    def retire(self) -> None:
        """Ends the connection with its next answer."""

    def end(self) -> None:
        """Ends the connection when all answers have left."""

    def abort(self) -> None:
        """Ends the connection at once."""


@runtime_checkable
class Report(Protocol):
    """The metrics of connections."""

    def opened(self, count: int) -> None:
        """Notes how many connections are open."""

    def closed(self, reason: str) -> None:
        """Counts a connection that the process ended for one of REASONS."""

    def bad_request(self) -> None:
        """Counts bytes that are no HTTP request."""


class Silence:
    """A report to nobody."""

    def opened(self, count: int) -> None:
        """Nothing."""

    def closed(self, reason: str) -> None:
        """Nothing."""

    def bad_request(self) -> None:
        """Nothing."""


def bare(error: RequestError) -> bytes:
    """A response without a body."""
    return b"HTTP/1.1 %d \r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % error.status


class Connections:
    """The connections of a process; 0 is no limit.

    `respond` makes the whole response to what is no request; the connection ends after it.
    """

    def __init__(
        self,
        most: int = 0,
        per_address: int = 0,
        seconds: int = 0,
        most_unread_bytes: int = 0,
        *,
        report: Report | None = None,
        respond: Callable[[RequestError], bytes] = bare,
    ) -> None:
        self.report = report or Silence()
        self.accepted = 0  # in all
        self.respond = respond
        self._most = most
        self._per_address = per_address
        self._seconds = seconds
        self._most_unread_bytes = most_unread_bytes
        self._retiring = False
        self._retire_at: dict[Ending, float] = {}  # of all open connections
        self._idle: dict[Ending, float] = {}  # since when; the oldest first
        self._of_address: dict[str, dict[Ending, None]] = {}
        self._bad_requests = 0
        self._logged_at = -LOG_SECONDS

    def __len__(self) -> int:
        """The number of open connections."""
        return len(self._retire_at)

    def add(self, connection: Ending, now: float) -> None:
        """Counts a new connection, for which another one or itself may have to end."""
        self.accepted += 1
        address = connection.client[0] if connection.client else ""
        same = self._of_address.setdefault(address, {}) if self._per_address else {}
        same[connection] = None
        spread = random.uniform(1 - RETIRE_SPREAD, 1 + RETIRE_SPREAD)  # noqa: S311 - no secret
        self._retire_at[connection] = now + (self._seconds or float("inf")) * spread
        self._idle[connection] = now
        self.report.opened(len(self))
        if self._retiring:
            connection.retire()
        if address and self._per_address and len(same) > self._per_address:
            self._end(next(one for one in same if one in self._idle), "address")
        elif self._most and len(self) > self._most:
            self._end(next(iter(self._idle)), "limit")

    def remove(self, connection: Ending) -> None:
        """Counts a connection no longer."""
        if self._retire_at.pop(connection, None) is None:
            return
        self._idle.pop(connection, None)
        address = connection.client[0] if connection.client else ""
        if (same := self._of_address.get(address)) is not None:
            same.pop(connection, None)
            if not same:
                del self._of_address[address]
        self.report.opened(len(self))

    def busy(self, connection: Ending) -> None:
        """Notes that a request has begun on a connection."""
        self._idle.pop(connection, None)

    def rest(self, connection: Ending, now: float) -> None:
        """Notes that a connection waits for its next request."""
        if connection in self._retire_at:
            self._idle.pop(connection, None)
            self._idle[connection] = now

    def bad_request(self) -> None:
        """Counts bytes that are no HTTP request, and logs them at most once in LOG_SECONDS."""
        self.report.bad_request()
        self._bad_requests += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            log.warning(
                "%d invalid HTTP requests received; the next line about them comes in %g s",
                self._bad_requests,
                LOG_SECONDS,
            )
            self._bad_requests, self._logged_at = 0, now

    def retire(self) -> None:
        """Ends every connection with its next answer, later ones included."""
        self._retiring = True
        for connection in self._retire_at:
            connection.retire()

    def end_quiet(self, before: float) -> None:
        """Ends the connections that are idle since before a time, and have nothing of a request."""
        for connection, since in list(self._idle.items()):
            if since > before:
                return
            if connection.quiet:
                connection.end()

    async def keep_sweeping(self) -> None:
        """Ends connections that use up their time, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(loop.time())

    def sweep(self, now: float) -> None:
        """Ends connections that have used up their time."""
        for connection, retire_at in list(self._retire_at.items()):
            connection.check(now)
            if now > retire_at:
                connection.retire()
        if self._most_unread_bytes:
            self._end_unread()

    def _end_unread(self) -> None:
        """Ends those with the most unread bytes while all together have too many."""
        unread = {each: each.unread_bytes for each in self._retire_at if each.unread_bytes}
        excess = sum(unread.values()) - self._most_unread_bytes
        for connection in sorted(unread, key=unread.__getitem__, reverse=True):
            if excess <= 0:
                return
            excess -= unread[connection]
            self._end(connection, "unread")

    def _end(self, connection: Ending, reason: str) -> None:
        self.report.closed(reason)
        # It counts no more, though its socket may need another turn of the event loop.
        self.remove(connection)
        connection.abort()
