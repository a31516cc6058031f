"""The queue of explanations: ordered by deadline, and shared by callers.

Of each caller the ticket with the earliest deadline is next. Of these the one goes first that
leaves its caller with the least of the lane after its turn, so that a cheap one need not wait for
dear ones. Seconds in the lane are forgotten over SPAN_SECONDS. A running explanation gives way once
its caller is more than TURN_SECONDS ahead of another caller that waits, or before a ticket that
waits, of any caller, would be late even with its cheapest answer.

What takes at most a tenth (BRIEF) of the running explanation does not wait for its end, even if one
caller asks for both: it runs between two pieces of it (`interject`), and the same between its own.

A ticket is charged with what it will really take in the time that is left for it. Ahead of it are
the rest of the running ticket and those that go first; of other callers a turn each at most.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

from service.schedule.pacing import REST
from service.schedule.queue import Item, Queue, Result, Ticket

SPAN_SECONDS, TURN_SECONDS = 10.0, 0.5
BRIEF = 0.1  # of the running explanation's seconds
PIECE_SECONDS = 0.15  # that a brief explanation waits for the end of a piece, at most
CALLERS = 1_000  # beyond so many, those with a negligible share are forgotten
NEGLIGIBLE_SECONDS = 0.001
# Of the least seconds of tickets: a forecast may be wrong, and a piece is not interrupted.
HASTE = 2.0


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


@dataclass
class _Run:
    """The seconds of a running ticket that others took, and when one last did."""

    elsewhere_seconds: float = 0.0
    interjected_at: float = -math.inf


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
        self._runs = [_Run()]  # one for each running ticket; the last one runs now

    def presses(self, running: Ticket[Item, Result]) -> bool:
        """True if `running`, the ticket in the lane, should give way to another caller."""
        with self._changed:
            if running is not self._running[0]:
                return False  # it is brief
            now = self.clock()
            if self._endangers(running, now):
                return True
            ran = now - self._started - self._runs[0].elsewhere_seconds
            own = self._shares.of(running.caller, now) + ran
            return any(
                own - self._shares.of(caller, now) > TURN_SECONDS
                for caller in {ticket.caller for ticket in self._waiting} - {running.caller}
            )

    def _endangers(self, running: Ticket[Item, Result], now: float) -> bool:
        """True if a ticket that waits would be late unless `running` and all before it hurry."""
        if not self._waiting:
            return False
        own = self._least_seconds(running.item)
        # The pace may have changed since they joined.
        haste = HASTE * max(1.0, own / running.least if running.least else 1.0)
        ends = now + HASTE * own
        for ticket in sorted(self._waiting, key=lambda ticket: ticket.deadline):
            if now + ticket.least > ticket.deadline:
                continue  # nothing saves it
            ends += haste * ticket.least
            if ends > ticket.deadline:
                return True
        return False

    @property
    def interjected_at(self) -> float:
        """When a brief ticket last began or ended between two pieces of the one that runs now."""
        return self._runs[-1].interjected_at

    def interject(self, until: float) -> Ticket[Item, Result] | None:
        """Pops a ticket that is brief beside the one that runs now. Waits for one `until` a time,
        and returns None if none comes. The lane calls it between two pieces.
        """
        with self._changed:
            while (ticket := self._pop_brief()) is None:
                seconds = until - self.clock()
                if seconds <= 0 or self._closed:
                    return None
                self._changed.wait(seconds)
            self._running = [*self._running, ticket]
            self._runs[-1].interjected_at = self.clock()
            self._runs.append(_Run())
            return ticket

    def _pop_brief(self) -> Ticket[Item, Result] | None:
        running = self._running[-1]
        left = running.deadline - self.clock()
        if left < HASTE * self._least_seconds(running.item):
            return None  # it has no time for others
        while brief := [ticket for ticket in self._waiting if self._is_brief(ticket, running)]:
            now = self.clock()
            ticket = self._first(brief, now)
            self._waiting.remove(ticket)
            self._metrics.depth.set(len(self._waiting))
            if not self._expired(ticket, now) and not ticket.settled:
                return ticket
            self._forget([ticket])
        return None

    def _is_brief(self, ticket: Ticket[Item, Result], running: Ticket[Item, Result]) -> bool:
        """True if `ticket`, as it would be answered now, is brief beside `running`."""
        most = BRIEF * running.cost
        remaining = ticket.deadline - self.clock()
        return ticket.cost <= most and self._expected_seconds(ticket.item, remaining) <= most

    def _needed_seconds(self, ticket: Ticket[Item, Result], remaining: float) -> float:
        ticket.cost = self._expected_seconds(ticket.item, remaining)
        ticket.least = self._least_seconds(ticket.item)
        if self._running and self._is_brief(ticket, self._running[0]):
            ahead = PIECE_SECONDS + self._brief_seconds(self._running[0])
        else:
            ahead = self._ahead_seconds(ticket)
            ticket.cost = self._expected_seconds(ticket.item, remaining - ahead)
        return ahead + ticket.cost

    def _brief_seconds(self, running: Ticket[Item, Result]) -> float:
        """The seconds until all that is brief beside `running` is answered, with pieces of it."""
        brief = [*self._running[1:], *(t for t in self._waiting if self._is_brief(t, running))]
        return (1 + 1 / REST) * sum(ticket.cost for ticket in brief)

    def _ahead_seconds(self, ticket: Ticket[Item, Result]) -> float:
        now = ticket.joined
        # Its own cost is not known yet, and the least puts it where it will be at best.
        ticket.cost = ticket.least
        first = sum(
            (self._charge(t, ticket) for t in self._waiting if self._before(t, ticket, now)), 0.0
        )
        if not self._running:
            return first
        running = self._running[0]
        passed = now - self._started - self._runs[0].elsewhere_seconds
        # It may take longer than its forecast, but not less than nothing.
        return first + max(0.0, min(running.cost - passed, self._charge(running, ticket)))

    def _charge(self, other: Ticket[Item, Result], ticket: Ticket[Item, Result]) -> float:
        """The seconds that `other` may take while `ticket` waits."""
        return other.cost if other.caller == ticket.caller else self._turn(other)

    def _turn(self, ticket: Ticket[Item, Result]) -> float:
        """The seconds that `ticket` takes at most while other callers wait."""
        return min(ticket.cost, TURN_SECONDS + ticket.least)

    def _pop(self) -> Ticket[Item, Result]:
        now = self._started = self.clock()
        self._runs = [_Run()]
        first = self._first(self._waiting, now)
        self._waiting.remove(first)
        return first

    def _first(self, tickets: Iterable[Ticket[Item, Result]], now: float) -> Ticket[Item, Result]:
        """The ticket that goes next."""
        heads: dict[str, Ticket[Item, Result]] = {}
        for ticket in tickets:
            head = heads.setdefault(ticket.caller, ticket)
            if ticket.deadline < head.deadline:
                heads[ticket.caller] = ticket
        return min(heads.values(), key=lambda ticket: self._share_after(ticket, now))

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
        now = self.clock()
        own_seconds = seconds - self._runs.pop().elsewhere_seconds
        self._shares.add(ticket.caller, own_seconds, now)
        if self._runs:  # `ticket` ran between two pieces of the one that goes on
            self._runs[-1].elsewhere_seconds += seconds
            self._runs[-1].interjected_at = now
