"""Lanes batch, bound, isolate and drain."""

import asyncio
import threading

import pytest

from service.errors import TooManyRequests, Unavailable
from service.lanes import Lane
from service.metrics import Metrics


def lane(work, **options):
    return Lane("test", work, **({"most_rows": 4, "capacity": 8, "metrics": Metrics()} | options))


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self):
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches = []

    def __call__(self, items):
        self.batches.append(list(items))
        self.begun.set()
        assert self.open.wait(10)
        return [item * 2 for item in items]


async def start(tested, gate, items):
    """One item runs, the others wait."""
    tasks = [asyncio.create_task(tested.run(items[0]))]
    await asyncio.to_thread(gate.begun.wait, 10)
    tasks += [asyncio.create_task(tested.run(item)) for item in items[1:]]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_runs_together_up_to_the_limit():
    async def run():
        gate = Gate()
        tested = lane(gate)
        tasks = await start(tested, gate, [1, 2, 3, 4, 5, 6])
        gate.open.set()
        done = await asyncio.gather(*tasks)
        tested.close()
        return gate.batches, [entry.result for entry in done]

    batches, results = asyncio.run(run())
    assert batches == [[1], [2, 3, 4, 5], [6]]
    assert results == [2, 4, 6, 8, 10, 12]


def test_a_full_lane_refuses_at_once():
    async def run():
        gate = Gate()
        tested = lane(gate, capacity=2)
        tasks = await start(tested, gate, [1, 2, 3])
        with pytest.raises(TooManyRequests, match="2 pictures wait in the test lane, which is its limit"):
            await tested.run(4)
        gate.open.set()
        await asyncio.gather(*tasks)
        tested.close()
        return tested._metrics.rejected.labels("test", "queue_full")._value.get()

    assert asyncio.run(run()) == 1


def test_a_bad_item_fails_alone():
    def work(items):
        if 13 in items:
            raise ValueError("unlucky")
        return items

    async def run():
        gate = threading.Event()
        tested = lane(lambda items: work(items) if gate.wait(10) else [])
        tasks = [asyncio.create_task(tested.run(item)) for item in (1, 13, 2)]
        await asyncio.sleep(0.05)
        gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        tested.close()
        return answers

    first, bad, last = asyncio.run(run())
    assert (first.result, last.result) == (1, 2)
    assert isinstance(bad, ValueError)


def test_closing_finishes_what_waits_and_refuses_the_rest():
    async def run():
        gate = Gate()
        tested = lane(gate)
        tasks = await start(tested, gate, [1, 2])
        closing = asyncio.create_task(asyncio.to_thread(tested.close))
        await asyncio.sleep(0.05)
        with pytest.raises(Unavailable, match="stopping"):
            await tested.run(3)
        gate.open.set()
        done = await asyncio.gather(*tasks)
        await closing
        return [entry.result for entry in done]

    assert asyncio.run(run()) == [2, 4]


def test_who_gave_up_is_not_worked_for():
    async def run():
        gate = Gate()
        tested = lane(gate)
        tasks = await start(tested, gate, [1, 2, 3])
        tasks[1].cancel()
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(tasks[0], tasks[2])
        tested.close()
        return gate.batches

    assert asyncio.run(run()) == [[1], [3]]
