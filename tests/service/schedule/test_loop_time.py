"""The time that decoding may take of one turn of the event loop."""

import asyncio

from service.schedule.loop_time import MOST_SECONDS, LoopTime


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self):
        return self.now


def spend(budget, clock, seconds):
    with budget.spend():
        clock.now += seconds


def test_a_turn_ends_what_may_be_spent_and_the_next_begins_anew():
    async def turns():
        clock = Clock()
        budget = LoopTime(clock)
        assert budget.is_left
        spend(budget, clock, MOST_SECONDS / 2)
        assert budget.is_left
        spend(budget, clock, MOST_SECONDS / 2)
        assert not budget.is_left
        await asyncio.sleep(0)
        assert budget.is_left
        spend(budget, clock, MOST_SECONDS)
        assert not budget.is_left

    asyncio.run(turns())
