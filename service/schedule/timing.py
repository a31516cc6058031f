"""The clockwork of a request: seconds by stage, its deadline, and the recent mean of a duration.

All times are seconds of `time.perf_counter`.
"""

import time
from dataclasses import dataclass, field

from service.schedule.allowance import Caller
from service.telemetry import account
from service.telemetry.account import Stage
from service.telemetry.metrics import Metrics

DEADLINE_MS = 10_000  # of a request that names none
NEWEST_WEIGHT = 0.2  # of the newest value in a recent mean


@dataclass
class RecentMean:
    """An exponentially weighted mean of seconds; it begins at `seconds`."""

    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Moves the mean a fifth of the way to `seconds`."""
        self.seconds += NEWEST_WEIGHT * (seconds - self.seconds)


@dataclass
class Timing:
    """Seconds by stage of one image; the `deadline` of its request, and its `caller`."""

    metrics: Metrics
    started: float = field(default_factory=time.perf_counter)
    caller: Caller = Caller()
    seconds: dict[str, float] = field(default_factory=dict)
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.allow(DEADLINE_MS)

    def allow(self, milliseconds: int) -> None:
        """Sets the deadline to `milliseconds` after the start."""
        self.deadline = self.started + milliseconds / 1000

    def add(self, stage: str, seconds: float, ago: float = 0.0, **facts: str | int) -> None:
        """Counts `seconds` for `stage`, which ended `ago` seconds before now; `facts` of it go into
        the account of the request.
        """
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.metrics.stages[stage].observe(seconds)
        noted = account.current.get()
        if noted is not None:
            noted.stages.append(Stage(stage, time.perf_counter() - ago, seconds, facts))

    def of(self, stage: str) -> "StageTimer":
        """A context manager that counts the seconds of its block, unless the block raises."""
        return StageTimer(self, stage)

    def milliseconds(self) -> dict[str, float]:
        """Milliseconds by stage, and `total` since the start."""
        return {
            stage: round(1000 * value, 3)
            for stage, value in (
                *self.seconds.items(),
                ("total", time.perf_counter() - self.started),
            )
        }


class StageTimer:
    """A stage while it runs."""

    def __init__(self, timing: Timing, stage: str) -> None:
        self._timing, self._stage = timing, stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._timing.add(self._stage, time.perf_counter() - self._started)
