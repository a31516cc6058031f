"""Lanes batch, bound, isolate, keep deadlines and drain."""

import asyncio
import math
import threading
import time

import pytest

from service.errors import DeadlineExceeded, TooManyRequests, Unavailable
from service.schedule.lanes import Lane
from service.telemetry.metrics import Metrics


def lane(work, **options):
    return Lane("test", work, **({"most_rows": 4, "capacity": 8, "metrics": Metrics()} | options))


def later(seconds=60.0):
    return time.perf_counter() + seconds


class Gate:
    """Work that waits until it is let through, and remembers its batches."""

    def __init__(self):
        self.open = threading.Event()
        self.begun = threading.Event()
        self.batches = []

    def __call__(self, batch):
        items = [ticket.item for ticket in batch]
        self.batches.append(items)
        self.begun.set()
        assert self.open.wait(10)
        return [item * 2 for item in items]


async def start(tested, gate, items):
    """One item runs, the others wait."""
    tasks = [asyncio.create_task(tested.run(items[0], later()))]
    await asyncio.to_thread(gate.begun.wait, 10)
    tasks += [asyncio.create_task(tested.run(item, later())) for item in items[1:]]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.parametrize("callers", [math.inf, 40, 1])
def test_on_the_event_loop_what_comes_together_runs_together(callers):
    async def run():
        found = []

        def work(batch):
            found.append(len(batch))
            return [ticket.item for ticket in batch]

        tested = lane(work, most_rows=16, capacity=64, on_loop=True, callers=lambda: callers)
        done = await asyncio.gather(*(tested.run(item, later()) for item in range(40)))
        tested.close()
        return found, [entry.result for entry in done]

    assert asyncio.run(run()) == ([16, 16, 8], list(range(40)))


@pytest.mark.parametrize(("callers", "batches"), [(1, [1, 1]), (2, [2])])
def test_on_the_event_loop_others_are_waited_for_only_if_there_are_others(callers, batches):
    async def run():
        found = []

        async def after(turns, item):
            for _ in range(turns):
                await asyncio.sleep(0)
            return (await tested.run(item, later())).result

        def work(batch):
            found.append(len(batch))
            return [ticket.item for ticket in batch]

        tested = lane(work, most_rows=16, on_loop=True, callers=lambda: callers)
        results = await asyncio.gather(after(0, 1), after(2, 2))
        tested.close()
        return found, results

    assert asyncio.run(run()) == (batches, [1, 2])


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
        with pytest.raises(
            TooManyRequests, match="2 images wait in the test lane, which is its limit"
        ):
            await tested.run(4, later())
        gate.open.set()
        await asyncio.gather(*tasks)
        tested.close()
        return tested._rejected["queue_full"]._value.get()

    assert asyncio.run(run()) == 1


def test_a_bad_item_fails_alone():
    def work(items):
        if 13 in items:
            raise ValueError("unlucky")
        return items

    async def run():
        gate = threading.Event()
        tested = lane(
            lambda batch: work([ticket.item for ticket in batch]) if gate.wait(10) else []
        )
        tasks = [asyncio.create_task(tested.run(item, later())) for item in (1, 13, 2)]
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
            await tested.run(3, later())
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


def test_who_gives_up_frees_its_place():
    async def run():
        gate = Gate()
        tested = lane(gate, capacity=2)
        tasks = await start(tested, gate, [1, 2, 3])
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(tested.run(4, later())))
        await asyncio.sleep(0)
        gate.open.set()
        done = await asyncio.gather(tasks[0], tasks[2], tasks[3])
        tested.close()
        return [entry.result for entry in done]

    assert asyncio.run(run()) == [2, 6, 8]


def test_what_cannot_be_done_in_time_is_refused_at_once():
    async def run():
        gate = Gate()
        tested = lane(gate, cost=lambda _item: 2.0)
        tasks = await start(tested, gate, [1, 2])
        began = time.perf_counter()
        with pytest.raises(
            Unavailable, match="the test lane needs about 6 s and 5 s are left of deadline_ms"
        ) as refused:
            await tested.run(3, later(5.0))
        took = time.perf_counter() - began
        tasks.append(asyncio.create_task(tested.run(4, later(7.0))))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)
        tested.close()
        return took, refused.value.retry_after_seconds, tested._backlog

    took, retry_after, backlog = asyncio.run(run())
    assert took < 0.1
    assert retry_after == 4
    assert backlog == 0


def test_whose_deadline_passes_in_the_queue_is_told_then():
    async def run():
        gate = Gate()
        tested = lane(gate)
        tasks = await start(tested, gate, [1])
        tasks.append(asyncio.create_task(tested.run(2, later(0.05))))
        tasks.append(asyncio.create_task(tested.run(3, later())))
        await asyncio.sleep(0.1)
        gate.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        tested.close()
        return gate.batches, answers

    batches, (first, late, last) = asyncio.run(run())
    assert batches == [[1], [3]]
    assert (first.result, last.result) == (2, 6)
    assert isinstance(late, DeadlineExceeded)
    assert "passed in the test lane" in str(late)
