"""Both lanes batch, isolate and drain."""

import asyncio
import gc
import math
import threading
import time
import weakref
from contextlib import suppress

import pytest

from service.errors import DeadlineExceeded, Unavailable
from service.schedule.fairness import FairQueue
from service.schedule.lanes import InterjectingLane, LoopLane, ThreadLane
from service.schedule.queue import Queue, QueueMetrics
from service.telemetry.metrics import Metrics
from support.clock import Clock
from support.servers import eventually

FAR = 1e9  # a deadline that no test reaches


def queue(**options):
    metrics = QueueMetrics.of(Metrics(), "test")
    return Queue("test", **({"capacity": 64, "most_rows": 4, "metrics": metrics} | options))


def on_loop(work, *, callers=math.inf, **options):
    return LoopLane(queue(**options), work, callers=lambda: callers)


def on_thread(work, **options):
    return ThreadLane(queue(**options), work, "test")


both = pytest.mark.parametrize("lane", [on_loop, on_thread])


class Doubling:
    """Work that doubles numbers and keeps its batches; a negative number fails the whole batch."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        items = [ticket.item for ticket in batch]
        self.batches.append(items)
        if min(items) < 0:
            raise ValueError(items)
        return [2 * item for item in items]


class Gate(Doubling):
    """The same on a thread; each batch waits until it is let through."""

    def __init__(self):
        super().__init__()
        self._begun, self._passes = threading.Semaphore(0), threading.Semaphore(0)

    def open(self, batches=100):
        self._passes.release(batches)

    async def begins(self):
        assert await asyncio.to_thread(self._begun.acquire, timeout=10)

    def __call__(self, batch):
        self._begun.release()
        assert self._passes.acquire(timeout=10)
        return super().__call__(batch)


async def started(lane, gate, items):
    """Callers of a lane on a thread: the first item runs, the others wait."""
    tasks = [asyncio.create_task(lane.run(items[0], FAR))]
    await gate.begins()
    tasks += [asyncio.create_task(lane.run(item, FAR)) for item in items[1:]]
    await asyncio.sleep(0)
    return tasks


async def results(tasks):
    return [done.result for done in await asyncio.gather(*tasks)]


@both
def test_every_caller_gets_its_own_result(lane):
    async def run():
        tested = lane(Doubling())
        found = await results(tested.run(item, FAR) for item in range(10))
        tested.close()
        return found

    assert asyncio.run(run()) == [2 * item for item in range(10)]


@pytest.mark.parametrize("callers", [math.inf, 40, 1])
def test_on_the_loop_items_that_come_together_run_together(callers):
    async def run():
        work = Doubling()
        tested = on_loop(work, most_rows=16, callers=callers)
        await asyncio.gather(*(tested.run(item, FAR) for item in range(40)))
        return [len(batch) for batch in work.batches]

    assert asyncio.run(run()) == [16, 16, 8]


@pytest.mark.parametrize(("callers", "batches"), [(1, [[1], [2]]), (2, [[1, 2]])])
def test_on_the_loop_a_batch_waits_for_others_only_if_there_are_others(callers, batches):
    async def run():
        work = Doubling()
        tested = on_loop(work, callers=callers)

        async def after(turns, item):
            for _ in range(turns):
                await asyncio.sleep(0)
            await tested.run(item, FAR)

        await asyncio.gather(after(0, 1), after(2, 2))
        return work.batches

    assert asyncio.run(run()) == batches


def test_on_a_thread_waiting_items_run_together_up_to_the_limit():
    async def run():
        gate = Gate()
        tested = on_thread(gate)
        tasks = await started(tested, gate, [1, 2, 3, 4, 5, 6])
        gate.open()
        found = await results(tasks)
        tested.close()
        return gate.batches, found

    assert asyncio.run(run()) == ([[1], [2, 3, 4, 5], [6]], [2, 4, 6, 8, 10, 12])


@both
def test_a_bad_item_fails_alone(lane):
    async def run():
        tested = lane(Doubling())
        return await answers(tested, [tested.run(item, FAR) for item in (1, -1, 2)])

    first, bad, last = asyncio.run(run())
    assert (first.result, last.result) == (2, 4)
    assert isinstance(bad, ValueError)


def test_a_batch_that_failed_is_observed_as_one_batch():
    async def run():
        metrics = Metrics()
        tested = on_loop(Doubling(), metrics=QueueMetrics.of(metrics, "test"))
        await asyncio.gather(*(tested.run(n, FAR) for n in (1, -1, 2)), return_exceptions=True)
        return metrics.text().decode()

    assert 'candor_batch_size_count{lane="test"} 1.0' in asyncio.run(run())


def test_a_caller_who_leaves_while_its_batch_runs_on_the_loop_does_not_hang_the_others():
    async def run():
        tasks = []

        def work(batch):
            tasks[1].cancel()
            return [ticket.item for ticket in batch]

        tested = on_loop(work)
        tasks += [asyncio.create_task(tested.run(item, FAR)) for item in (1, 2, 3)]
        return await answers(tested, tasks)

    first, left, last = asyncio.run(run())
    assert (first.result, last.result) == (1, 3)
    assert isinstance(left, asyncio.CancelledError)


def test_a_caller_who_leaves_while_its_batch_runs_on_a_thread_does_not_hang_the_others():
    async def run():
        gate = Gate()
        tested = on_thread(gate)
        tasks = await started(tested, gate, [0, 1, 2, 3])
        gate.open(1)
        await gate.begins()  # the batch of the other three
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.open()
        return await answers(tested, tasks)

    zeroth, first, left, last = asyncio.run(run())
    assert (zeroth.result, first.result, last.result) == (0, 2, 6)
    assert isinstance(left, asyncio.CancelledError)


async def answers(lane, tasks):
    """The answers of a lane that must still work and be without a backlog afterwards."""
    async with asyncio.timeout(10):
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await lane.run(4, FAR)
    lane.close()
    assert lane.queue.backlog_seconds == 0
    return found


def test_a_caller_who_left_is_not_worked_for():
    async def run():
        gate = Gate()
        tested = on_thread(gate)
        tasks = await started(tested, gate, [1, 2, 3])
        tasks[1].cancel()
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(tasks[0], tasks[2])
        tested.close()
        return gate.batches

    assert asyncio.run(run()) == [[1], [3]]


def test_a_deadline_that_passes_behind_a_batch_on_the_loop_fails_its_caller_alone():
    async def run():
        clock = Clock()

        def work(batch):
            clock.sleep(2.0)
            return [ticket.item for ticket in batch]

        tested = on_loop(work, clock=clock, most_rows=1, cost=lambda _item: 0.0)
        deadlines = (FAR, clock.now + 1.0, clock.now + 2.0)
        callers = (tested.run(item, deadline) for item, deadline in enumerate(deadlines))
        return await asyncio.gather(*callers, return_exceptions=True)

    first, late, last = asyncio.run(run())
    assert (first.result, last.result) == (0, 2)
    assert isinstance(late, DeadlineExceeded)
    assert "2 s passed in the test queue" in str(late)


def test_a_deadline_that_passes_behind_a_batch_on_a_thread_fails_its_caller_alone():
    async def run():
        clock, gate = Clock(), Gate()
        tested = on_thread(gate, clock=clock, cost=lambda _item: 0.0)
        tasks = await started(tested, gate, [0])
        deadlines = (clock.now + 1.0, clock.now + 2.0)
        tasks += [asyncio.create_task(tested.run(1, deadline)) for deadline in deadlines]
        await asyncio.sleep(0)
        clock.sleep(2.0)
        gate.open()
        return await answers(tested, tasks)

    first, late, last = asyncio.run(run())
    assert (first.result, last.result) == (0, 2)
    assert isinstance(late, DeadlineExceeded)


def test_the_seconds_in_the_queue_and_of_the_run_are_not_swapped():
    async def run():
        clock = Clock()

        def work(batch):
            clock.sleep(3.0)
            return [ticket.item for ticket in batch]

        tested = on_loop(work, clock=clock)
        tasks = [asyncio.create_task(tested.run(number, FAR)) for number in (1, 2)]
        await asyncio.sleep(0)
        clock.sleep(5.0)
        return await asyncio.gather(*tasks)

    assert asyncio.run(run()) == [(1, 5.0, 3.0, 2), (2, 5.0, 3.0, 2)], "two rows ran together"


def test_the_forecast_is_the_mean_of_an_item_and_not_of_its_batch():
    async def run():
        clock = Clock()

        def work(batch):
            clock.sleep(8.0)
            return [ticket.item for ticket in batch]

        tested = on_loop(work, clock=clock)
        await asyncio.gather(*(tested.run(item, FAR) for item in range(4)))
        return tested.queue.join(4, FAR).cost

    assert asyncio.run(run()) == pytest.approx(0.4)  # a fifth of 2 s


def test_closing_a_lane_on_the_loop_finishes_what_waits_and_rejects_the_rest():
    async def run():
        tested = on_loop(Doubling(), most_rows=2)
        tasks = [asyncio.create_task(tested.run(item, FAR)) for item in (1, 2, 3)]
        await asyncio.sleep(0)
        tested.close()
        assert tested.queue.waiting == 0
        with pytest.raises(Unavailable, match="stopping"):
            await tested.run(4, FAR)
        async with asyncio.timeout(10):
            return await results(tasks)

    assert asyncio.run(run()) == [2, 4, 6]


def test_closing_a_lane_on_a_thread_finishes_what_waits_and_rejects_the_rest():
    async def run():
        gate = Gate()
        tested = on_thread(gate)
        tasks = await started(tested, gate, [1, 2])
        closing = asyncio.create_task(asyncio.to_thread(tested.close))
        await eventually(lambda: tested.queue._closed)
        with pytest.raises(Unavailable, match="stopping"):
            await tested.run(3, FAR)
        gate.open()
        found = await results(tasks)
        await closing
        return found

    assert asyncio.run(run()) == [2, 4]


def test_brief_work_runs_between_two_pieces_of_long_work_and_is_answered_first():
    answered, interjected = [], []
    begun, joined = threading.Event(), threading.Event()

    def work(batch):
        (ticket,) = batch
        if ticket.item > 1:
            begun.set()
            joined.wait(10)
            interjected.append(lane.interject(0.0))
        return [ValueError() if ticket.item < 0 else ticket.item]

    lane = InterjectingLane(
        FairQueue(
            "test",
            expected_seconds=lambda item, _seconds: abs(item),
            least_seconds=abs,
            capacity=8,
            metrics=QueueMetrics.of(Metrics(), "test"),
        ),
        work,
        "test",
    )

    async def ask(item):
        with suppress(ValueError):
            await lane.run(item, time.perf_counter() + 60)
        answered.append(item)

    async def run():
        long = asyncio.ensure_future(ask(20.0))
        assert await asyncio.to_thread(begun.wait, 10)
        brief = [asyncio.ensure_future(ask(item)) for item in (1.0, -1.0)]
        await eventually(lambda: lane.queue.waiting == 2)
        joined.set()
        await asyncio.gather(long, *brief)

    asyncio.run(run())
    lane.close()
    assert set(answered) == {20.0, 1.0, -1.0}
    assert answered[0] != 20.0
    assert interjected[0] > 0.0


class Image:
    """An item that a weak reference can watch."""


def refuse(batch):
    assert batch
    raise Unavailable("the test refuses it")


@both
def test_a_refused_item_is_in_no_cycle(lane):
    lane, item = lane(refuse), Image()

    async def run(image):
        with suppress(Unavailable):
            await lane.run(image, FAR)

    gc.disable()
    try:
        watched = weakref.ref(item)
        asyncio.run(run(item))
        lane.close()
        del item
        assert watched() is None
    finally:
        gc.enable()
