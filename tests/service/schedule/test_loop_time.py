"""The time that decoding may take of one turn of the event loop."""

import asyncio
import time

from service.schedule.loop_time import MOST_SECONDS, LoopTime


def spend(budget, seconds):
    with budget.spend():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass


def test_a_turn_ends_what_may_be_spent_and_the_next_begins_anew():
    async def turns():
        budget = LoopTime()
        assert budget.is_left
        spend(budget, MOST_SECONDS / 2)
        assert budget.is_left
        spend(budget, MOST_SECONDS / 2)
        assert not budget.is_left
        await asyncio.sleep(0)
        assert budget.is_left
        spend(budget, MOST_SECONDS)
        assert not budget.is_left

    asyncio.run(turns())
