"""A message that takes long is charged as the largest, or ended; one that has come, its length."""

import asyncio
import time

import pytest

from service.api.body import READ_SECONDS, Limits
from service.api.grpc.reading import COPIES, GRACE_SECONDS, Reads
from service.errors import SlowRequest, TooManyRequests
from service.image.budget import Budget

MIB = 2**20


def reads(limit=40 * MIB, largest=10 * MIB):
    return Reads(Limits(largest, Budget("bodies", limit)))


async def begun(found):
    """A read that has begun, and the end of its message."""
    message = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(found.read(message))
    await asyncio.sleep(0)
    return task, message


def budget_of(found):
    return found._limits.budget.used_bytes


def test_a_message_that_has_come_is_charged_with_its_copy_and_a_small_one_nothing():
    async def run():
        found = reads()
        task, message = await begun(found)
        message.set_result(bytes(MIB))
        body, lease = await task
        assert (len(body), lease.held_bytes, budget_of(found)) == (MIB, COPIES * MIB, COPIES * MIB)
        lease.release()
        task, message = await begun(found)
        message.set_result(b"small")
        assert await task == (b"small", None)
        assert budget_of(found) == 0

    asyncio.run(run())


def test_a_slow_message_is_charged_as_the_largest_until_it_has_come():
    async def run():
        found = reads()
        task, message = await begun(found)
        found.sweep(time.monotonic())
        assert budget_of(found) == 0
        found.sweep(time.monotonic() + 2 * GRACE_SECONDS)
        assert budget_of(found) == 10 * MIB
        message.set_result(b"small")
        await task
        assert budget_of(found) == 0

    asyncio.run(run())


@pytest.mark.parametrize(
    ("seconds", "limit", "error"),
    [(READ_SECONDS + 1, 40 * MIB, SlowRequest), (2 * GRACE_SECONDS, 8 * MIB, TooManyRequests)],
)
def test_a_message_without_time_or_memory_is_ended(seconds, limit, error):
    async def run():
        found = reads(limit)
        task, _ = await begun(found)
        found.sweep(time.monotonic() + seconds)
        with pytest.raises(error):
            await task
        assert budget_of(found) == 0

    asyncio.run(run())


def test_a_cancelled_read_stays_cancelled():
    async def run():
        found = reads()
        task, _ = await begun(found)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not found._waits

    asyncio.run(run())
