"""Explanations are ordered by deadline, shared by callers, and charged with what they will take."""

import asyncio

import pytest

from service.errors import Unavailable
from service.schedule.fairness import (
    CALLERS,
    HASTE,
    SPAN_SECONDS,
    TURN_SECONDS,
    FairQueue,
    Shares,
)
from service.schedule.queue import QueueMetrics
from service.telemetry.metrics import Metrics
from support.clock import Clock

FAR = 1e9
LEAST = 0.1  # seconds of the cheapest answer of every item


class Room:
    """A fair queue on a clock that stands still; an item is its full cost in seconds."""

    def __init__(self):
        self.clock = Clock()
        self.queue = FairQueue(
            "test",
            expected_seconds=lambda item, seconds: item if item <= seconds else min(item, LEAST),
            least_seconds=lambda item: min(item, LEAST),
            capacity=32,
            metrics=QueueMetrics.of(Metrics(), "test"),
            clock=self.clock,
        )

    def join(self, cost, seconds=FAR, caller="a"):
        return self.queue.join(cost, self.clock.now + seconds, caller)

    def take(self):
        (ticket,) = self.queue.take()
        return ticket

    def interject(self, seconds):
        """Runs the next brief ticket for so long, between two pieces."""
        ticket = self.queue.interject(self.clock.now)
        self.clock.sleep(seconds)
        self.queue.complete([ticket], seconds)
        return ticket

    def run(self, seconds):
        """Runs the next ticket for so long."""
        ticket = self.take()
        self.clock.sleep(seconds)
        self.queue.complete([ticket], seconds)
        return ticket


def in_loop(test):
    def run():
        async def go():
            test(Room())

        asyncio.run(go())

    run.__name__ = test.__name__
    return run


@in_loop
def test_the_tickets_of_a_caller_leave_in_the_order_of_their_deadlines(room):
    late, soon, also_late = room.join(1.0, 60), room.join(1.0, 10), room.join(1.0, 60)
    assert [room.run(1.0) for _ in range(3)] == [soon, late, also_late]


@in_loop
def test_the_caller_that_had_the_least_goes_first(room):
    busy = [room.join(1.0, 20) for _ in range(3)]
    room.run(1.0)
    quiet = room.join(1.0, 60, caller="b")
    assert [room.run(1.0), room.run(1.0)] == [quiet, busy[1]]


@in_loop
def test_a_cheap_ticket_does_not_wait_for_dear_ones_of_others(room):
    room.join(0.3, caller="b")
    room.run(0.3)
    for caller in "cdef":
        room.join(30.0, 30, caller=caller)
    cheap = room.join(0.1, 60, caller="b")
    assert room.run(0.1) is cheap


@in_loop
def test_callers_who_ask_for_the_same_get_the_same(room):
    for _ in range(12):
        for caller in "abc":
            if not any(t.caller == caller for t in room.queue._waiting):
                room.join(1.0, caller=caller)
        room.run(1.0)
    shares = [room.queue._shares.of(caller, room.clock.now) for caller in "abc"]
    assert max(shares) - min(shares) < 1.0


@in_loop
def test_a_running_ticket_gives_way_once_its_caller_is_a_turn_ahead(room):
    dear = room.join(30.0)
    assert room.take() is dear
    room.clock.sleep(30.0)
    assert not room.queue.presses(dear), "nobody waits"
    own = room.join(1.0)
    assert not room.queue.presses(dear), "its own caller can wait"
    room.queue.complete([dear], 0.0)
    assert room.take() is own
    room.join(1.0, caller="b")
    room.clock.sleep(TURN_SECONDS)
    assert not room.queue.presses(own)
    room.clock.sleep(0.01)
    assert room.queue.presses(own)


@in_loop
def test_a_caller_that_had_much_gives_way_at_once(room):
    room.join(30.0)
    room.run(30.0)
    dear = room.join(30.0)
    room.take()
    room.join(1.0, caller="b")
    assert room.queue.presses(dear)


@in_loop
def test_a_running_ticket_gives_way_before_another_of_its_caller_would_be_late(room):
    dear = room.join(8.0, 10)
    room.take()
    room.join(8.0, 9)
    room.join(8.0, 9.5)
    room.clock.sleep(9 - 2 * HASTE * LEAST - 0.01)
    assert not room.queue.presses(dear)
    room.clock.sleep(0.02)
    assert room.queue.presses(dear)
    room.clock.sleep(9)
    assert not room.queue.presses(dear), "nothing saves them"


@in_loop
def test_what_waits_is_saved_at_the_pace_of_what_runs(room):
    dear = room.join(8.0, 10)
    room.take()
    room.join(8.0, 9)
    room.clock.sleep(9 - 8 * HASTE * LEAST)
    assert not room.queue.presses(dear)
    room.queue._least_seconds = lambda _item: 5 * LEAST
    assert room.queue.presses(dear)


@in_loop
def test_a_ticket_that_has_little_time_itself_lets_nothing_run_within_it(room):
    room.join(15.0, 20)
    room.take()
    brief = room.join(0.1, 60)
    room.clock.sleep(20 - HASTE * LEAST + 0.01)
    assert room.queue.interject(room.clock.now) is None
    room.clock.sleep(-0.02)
    assert room.queue.interject(room.clock.now) is brief


@in_loop
def test_what_a_caller_had_is_forgotten(room):
    room.join(30.0)
    room.run(30.0)
    room.clock.sleep(6 * SPAN_SECONDS)
    dear = room.join(30.0)
    room.take()
    room.join(1.0, caller="b")
    assert not room.queue.presses(dear)


@in_loop
def test_a_ticket_is_charged_with_what_it_will_take_in_its_time(room):
    assert room.join(5.0, 60).cost == 5.0
    room.take()
    assert room.join(5.0, 10).cost == 5.0
    assert room.join(5.0, 14.9).cost == LEAST


@in_loop
def test_behind_dear_tickets_of_its_own_caller_a_ticket_is_rejected_at_once(room):
    room.join(15.0, 60)
    room.take()
    room.clock.sleep(5.0)
    with pytest.raises(Unavailable, match=r"needs about 10 s, and deadline_ms leaves 9 s"):
        room.join(2.0, 9)
    assert room.join(2.0, 10.2).cost == LEAST


@in_loop
def test_of_another_caller_a_ticket_waits_a_turn_at_most(room):
    room.join(0.95, 60)
    room.take()
    with pytest.raises(Unavailable, match=r"needs about 0\.7 s"):
        room.join(2.0, TURN_SECONDS, caller="b")
    assert room.join(2.0, TURN_SECONDS + 2 * LEAST, caller="b").cost == LEAST


@in_loop
def test_a_brief_ticket_runs_within_a_dear_one_whoever_asks(room):
    dear = room.join(15.0, 60)
    room.take()
    own, other = room.join(1.4, 2.0), room.join(0.2, 4.0, caller="b")
    room.join(1.6, 60)
    with pytest.raises(Unavailable):
        room.join(1.4, 2.0)  # the others go first
    assert [room.interject(0.2), room.interject(1.4)] == [other, own]
    assert room.queue.interject(room.clock.now) is None
    before = [room.queue._shares.of(caller, room.clock.now) for caller in "ab"]
    assert before == pytest.approx([1.4, 0.2], rel=0.15)  # some of it is forgotten
    room.queue.complete([dear], 15.0)
    assert room.queue._shares.of("a", room.clock.now) == pytest.approx(before[0] + 15.0 - 1.6)


@in_loop
def test_within_a_brief_ticket_only_what_is_brief_beside_it_runs(room):
    room.join(50.0, 60)
    room.take()
    room.join(4.0, 60)
    middle = room.queue.interject(room.clock.now)
    room.join(0.5, 60)
    assert room.queue.interject(room.clock.now) is None
    room.join(0.3, 60)
    room.interject(0.3)
    room.clock.sleep(3.7)
    room.queue.complete([middle], 4.0)
    assert room.queue._runs[0].elsewhere_seconds == 4.0
    assert room.interject(0.5).cost == 0.5


@in_loop
def test_what_is_brief_for_want_of_time_is_not_once_it_has_time(room):
    room.join(15.0, 60)
    room.take()
    room.clock.sleep(5.0)
    late = room.join(2.0, 10.2)
    assert late.cost == LEAST, "it would run in the last 0.2 s"
    assert room.queue.interject(room.clock.now) is None


@in_loop
def test_a_brief_ticket_that_is_late_or_left_does_not_run(room):
    room.join(15.0, 60)
    room.take()
    room.join(0.1, 0.5)
    left = room.join(0.1, 60)
    left.future.cancel()
    room.clock.sleep(1.0)
    assert room.queue.interject(room.clock.now) is None


@in_loop
def test_tickets_that_come_later_in_the_order_are_not_in_the_way(room):
    room.join(15.0, 60)
    assert room.join(1.0, 2).cost == 1.0


@in_loop
def test_a_running_ticket_that_takes_too_long_charges_nothing_below_zero(room):
    room.join(1.0, 60)
    room.take()
    room.clock.sleep(3.0)
    assert room.join(0.5, 0.5).cost == 0.5


def test_callers_with_a_negligible_share_are_forgotten():
    shares = Shares()
    shares.add("first", 1.0, 0.0)
    for number in range(3 * CALLERS):
        shares.add(str(number), 0.0001, 0.0)
    assert len(shares._spent) <= CALLERS + 1
    assert shares.of("first", 0.0) == 1.0
