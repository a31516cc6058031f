"""Load at a fixed rate by h2load (nghttp2), however long an answer takes.

A closed loop slows down with the server that it measures, and so hides what an overload does. Here
each of many connections sends its requests by the clock. It has at most one request open, so the
rate holds as long as an answer takes less than the time between two requests of a connection.
"""

import math
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.load import HOST, Request, find

PERIOD_SECONDS = 0.01  # between two groups of new connections
RAMP_SECONDS = 2  # until all connections send; the last of them end as much later
LOST = -1  # h2load's status for a request without an answer


@dataclass(frozen=True)
class Exchange:
    """One request: when it was sent and answered, in seconds of `time.time`, and its HTTP status.

    The status of a request without an answer is LOST.
    """

    sent: float
    ended: float
    status: int

    @property
    def milliseconds(self) -> float:
        """The time from the request to its answer."""
        return 1000 * (self.ended - self.sent)


@dataclass(frozen=True)
class Wave:
    """All requests of one load, whose full rate lasted `seconds` from `began`."""

    exchanges: Sequence[Exchange]
    began: float
    seconds: float

    def sent(self) -> list[Exchange]:
        """The requests sent at the full rate."""
        return [one for one in self.exchanges if 0 <= one.sent - self.began < self.seconds]

    def per_second(self, status: int) -> float:
        """The answers with `status` a second, counted at the full rate."""
        return (
            sum(
                one.status == status and 0 <= one.ended - self.began < self.seconds
                for one in self.exchanges
            )
            / self.seconds
        )

    def statuses(self) -> Counter[int]:
        """The number of requests by status, all of the load."""
        return Counter(one.status for one in self.exchanges)


def drive(
    port: int, request: Request, rate: float, seconds: float, connections: int, folder: Path
) -> Wave:
    """Sends `request` to a port of loopback, `rate` times a second over all `connections` together.

    h2load's files go to `folder`.
    """
    body, log = folder / "body", folder / "h2load.log"
    body.write_bytes(request.body)
    log.unlink(missing_ok=True)
    each = rate / connections
    # One request more than needed: the last of them falls behind the time that counts.
    requests_each = math.ceil((RAMP_SECONDS + seconds) * each) + 1
    opened_at_once = max(1, round(connections * PERIOD_SECONDS / RAMP_SECONDS))
    options = {
        "clients": connections,
        "rate": opened_at_once,
        "rate-period": f"{1000 * PERIOD_SECONDS:.0f}ms",
        "rps": f"{each:.4f}",
        "requests": requests_each * connections,
        "threads": 1,  # the generator shares the cores with the server
        "data": body,
        "log-file": log,
    }
    headers = [f"--header={name}: {value}" for name, value in request.headers.items()]
    command = [
        find("h2load", "nghttp2-client"),
        "--h1",
        *(f"--{name}={value}" for name, value in options.items()),
        *headers,
    ]
    subprocess.run(
        [*command, f"http://{HOST}:{port}{request.path}"], check=True, capture_output=True
    )
    exchanges = read(log)
    return Wave(exchanges, min(one.sent for one in exchanges) + RAMP_SECONDS, seconds)


def read(log: Path) -> list[Exchange]:
    """The requests in h2load's log: lines of start (µs since 1970), status and duration (µs)."""
    rows = (line.split() for line in log.read_text().splitlines())
    return [
        Exchange(int(start) / 1e6, (int(start) + int(duration)) / 1e6, int(status))
        for start, status, duration in rows
    ]
