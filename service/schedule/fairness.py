"""The queue of explanations: ordered by deadline, and shared by callers.

Of each caller the ticket with the earliest deadline is next. Of these the one goes first that
leaves its caller with the least of the lane after its turn, so that a cheap one need not wait for
dear ones. Seconds in the lane are forgotten over SPAN_SECONDS. A running explanation gives way once
its caller is more than TURN_SECONDS ahead of another caller that waits.

A ticket is charged with what it will really take in the time that is left for it. Ahead of it are
the rest of the running ticket and those that go first; of other callers a turn each at most.
"""

import math
from collections.abc import Callable
from typing import Any, Generic

from service.schedule.queue import Item, Queue, Result, Ticket

SPAN_SECONDS, TURN_SECONDS = 10.0, 0.5
CALLERS = 1_000  # beyond so many, those with a negligible share are forgotten
NEGLIGIBLE_SECONDS = 0.001


class Shares:
    """The recent seconds of each caller in the lane; `now` is the time in seconds."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, float]] = {}

    def of(self, caller: str, now: float) -> float:
        """The recent seconds of `caller`."""
        seconds, at = self._spent.get(caller, (0.0, now))
        return seconds * math.exp((at - now) / SPAN_SECONDS)

    def add(self, caller: str, seconds: float, now: float) -> None:
        """Notes that `caller` has had `seconds`, which end now."""
        self._spent[caller] = (self.of(caller, now) + seconds, now)
        if len(self._spent) > CALLERS:
            self._spent = {
                known: spent
                for known, spent in self._spent.items()
                if self.of(known, now) > NEGLIGIBLE_SECONDS
            }


class FairQueue(Queue[Item, Result], Generic[Item, Result]):
    """A queue for one ticket at a time; safe for one event loop and one lane thread."""

    def __init__(
        self,
        name: str,
        *,
        expected_seconds: Callable[[Item, float], float],
        least_seconds: Callable[[Item], float],
        **options: Any,
    ) -> None:
        """Makes a queue; `expected_seconds(item, remaining)` forecasts what an item will take if
        so many seconds remain, and `least_seconds` what it takes at least.
        """
        super().__init__(name, most_rows=1, cost=least_seconds, **options)
        self._expected_seconds = expected_seconds
        self._least_seconds = least_seconds
        self._shares = Shares()
        self._started = 0.0

    def presses(self, running: Ticket[Item, Result]) -> bool:
        """True if `running`, the ticket in the lane, should give way to another caller."""
        with self._changed:
            now = self.clock()
            own = self._shares.of(running.caller, now) + now - self._started
            return any(
                own - self._shares.of(caller, now) > TURN_SECONDS
                for caller in {ticket.caller for ticket in self._waiting} - {running.caller}
            )

    def _price(self, ticket: Ticket[Item, Result], seconds: float) -> float:
        return self._expected_seconds(ticket.item, seconds)

    def _ahead_seconds(self, ticket: Ticket[Item, Result]) -> float:
        now = ticket.joined
        # Its own cost is not known yet, and the least puts it where it will be at best.
        ticket.cost = self._least_seconds(ticket.item)
        first = sum(
            (self._charge(t, ticket) for t in self._waiting if self._before(t, ticket, now)), 0.0
        )
        if not self._running:
            return first
        (running,) = self._running
        passed = now - self._started
        # It may take longer than its forecast, but not less than nothing.
        return first + max(0.0, min(running.cost - passed, self._charge(running, ticket)))

    def _charge(self, other: Ticket[Item, Result], ticket: Ticket[Item, Result]) -> float:
        """The seconds that `other` may take while `ticket` waits."""
        return other.cost if other.caller == ticket.caller else self._turn(other)

    def _turn(self, ticket: Ticket[Item, Result]) -> float:
        """The seconds that `ticket` takes at most while other callers wait."""
        return min(ticket.cost, TURN_SECONDS + self._least_seconds(ticket.item))

    def _pop(self) -> Ticket[Item, Result]:
        now = self._started = self.clock()
        heads: dict[str, Ticket[Item, Result]] = {}
        for ticket in self._waiting:
            head = heads.setdefault(ticket.caller, ticket)
            if ticket.deadline < head.deadline:
                heads[ticket.caller] = ticket
        first = min(heads.values(), key=lambda ticket: self._share_after(ticket, now))
        self._waiting.remove(first)
        return first

    def _before(
        self, other: Ticket[Item, Result], ticket: Ticket[Item, Result], now: float
    ) -> bool:
        """True if `other`, which waits, goes before `ticket`, which comes."""
        if other.caller == ticket.caller:
            return other.deadline <= ticket.deadline
        return self._share_after(other, now) <= self._share_after(ticket, now)

    def _share_after(self, ticket: Ticket[Item, Result], now: float) -> float:
        return self._shares.of(ticket.caller, now) + self._turn(ticket)

    def _ran(self, ticket: Ticket[Item, Result], seconds: float) -> None:
        self._shares.add(ticket.caller, seconds, self.clock())
