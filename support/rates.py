"""Load at a rate: many connections that each ask so many times a second, however long an answer takes, by h2load (nghttp2).

A closed loop slows down with the server that it measures, and so hides what an overload does. Here every connection has at most one request
open, so a rate is kept as long as answers take less than the time between two requests of a connection. h2load is written in C: a
generator that shares the cores with the server must take little of them.
"""

import math
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.load import HOST, Request, find

PERIOD_SECONDS = 0.01  # between two handfuls of connections
RAMP_SECONDS = 2  # until all connections ask; as long for the last of them to end
LOST = -1  # the status in h2load's log of a request without an answer


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent and answered, in seconds of the clock of `time.time`, and its HTTP `status`, LOST without one."""

    sent: float
    ended: float
    status: int

    @property
    def milliseconds(self) -> float:
        """From the one to the other."""
        return 1000 * (self.ended - self.sent)


@dataclass(frozen=True)
class Wave:
    """All requests of one load, whose full rate lasted from `began` for `seconds`."""

    asked: Sequence[Asked]
    began: float
    seconds: float

    def sent(self) -> list[Asked]:
        """What was sent at the full rate."""
        return [one for one in self.asked if 0 <= one.sent - self.began < self.seconds]

    def per_second(self, status: int) -> float:
        """The answers of `status` that arrived in that time, a second."""
        return (
            sum(
                one.status == status and 0 <= one.ended - self.began < self.seconds
                for one in self.asked
            )
            / self.seconds
        )

    def statuses(self) -> Counter[int]:
        """How many of each status, of all that was ever sent."""
        return Counter(one.status for one in self.asked)


def drive(
    port: int, request: Request, rate: float, seconds: float, connections: int, folder: Path
) -> Wave:
    """Sends `request` to a port of loopback `rate` times a second in all, over `connections`; files go to `folder`."""
    body, log = folder / "body", folder / "h2load.log"
    body.write_bytes(request.body)
    log.unlink(missing_ok=True)
    each = rate / connections
    times = (
        math.ceil((RAMP_SECONDS + seconds) * each) + 1
    )  # the last of them is beyond the time that counts
    handful = max(1, round(connections * PERIOD_SECONDS / RAMP_SECONDS))
    options = {
        "clients": connections,
        "rate": handful,
        "rate-period": f"{1000 * PERIOD_SECONDS:.0f}ms",
        "rps": f"{each:.4f}",
        "requests": times * connections,
        "threads": 1,
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
    asked = read(log)
    return Wave(asked, min(one.sent for one in asked) + RAMP_SECONDS, seconds)


def read(log: Path) -> list[Asked]:
    """h2load's log: a line a request, with its start (µs since 1970), its status and how long it took (µs)."""
    rows = (line.split() for line in log.read_text().splitlines())
    return [
        Asked(int(start) / 1e6, (int(start) + int(took)) / 1e6, int(status))
        for start, status, took in rows
    ]
