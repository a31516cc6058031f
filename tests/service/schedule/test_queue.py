"""A queue bounds, forecasts and keeps deadlines, whichever lane runs it."""

import asyncio
import threading
import time

import pytest

from service.errors import DeadlineExceeded, TooManyRequests, Unavailable
from service.schedule.queue import Queue, QueueMetrics
from service.telemetry.metrics import Metrics
from support.clock import Clock

FAR = 1e9  # a deadline that no test reaches


class Room:
    """A queue with a clock that stands still, and its metrics."""

    def __init__(self, **options):
        self.metrics = Metrics()
        self.clock = Clock(now=1_000.0)
        self.queue = Queue(
            "test",
            **(
                {
                    "capacity": 8,
                    "most_rows": 4,
                    "metrics": QueueMetrics.of(self.metrics, "test"),
                    "clock": self.clock,
                }
                | options
            ),
        )

    def metric(self, name, **labels):
        wanted = ",".join(f'{key}="{value}"' for key, value in ({"lane": "test"} | labels).items())
        return next(
            float(line.rpartition(" ")[2])
            for line in self.metrics.text().decode().splitlines()
            if line.startswith(f"{name}{{{wanted}}}")
        )

    def rejected(self, reason):
        return self.metric("candor_rejected_total", reason=reason)


def in_loop(test):
    """Runs the coroutine function `test` on an event loop."""

    def run():
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@in_loop
async def test_a_full_queue_rejects_the_next_item():
    room = Room(capacity=2)
    room.queue.join(1, FAR)
    room.queue.join(2, FAR)
    with pytest.raises(TooManyRequests, match=r"the test queue is full \(limit 2\): retry later"):
        room.queue.join(3, FAR)
    assert room.queue.waiting == 2
    assert room.rejected("queue_full") == 1
    assert room.metric("candor_queue_limit") == 2


@in_loop
async def test_a_taken_item_frees_its_place():
    room = Room(capacity=1, most_rows=1)
    room.queue.join(1, FAR)
    assert room.queue.rejection() is not None
    room.queue.take()
    assert room.queue.rejection() is None


@in_loop
async def test_admitted_requests_that_are_not_in_the_queue_yet_take_places():
    room = Room(capacity=3)
    room.queue.join(1, FAR)
    assert room.queue.rejection(ahead=1) is None
    assert room.rejected("queue_full") == 0
    assert isinstance(room.queue.rejection(ahead=2), TooManyRequests)
    assert room.rejected("queue_full") == 1


@in_loop
async def test_images_being_prepared_take_places_until_they_join():
    room = Room(capacity=2)
    with room.queue.reserve():
        room.queue.join(1, FAR)
        with pytest.raises(TooManyRequests), room.queue.reserve():
            raise AssertionError("no place was left")
        with pytest.raises(TooManyRequests):
            room.queue.join(2, FAR)
    room.queue.join(2, FAR)
    assert room.queue.waiting == 2


def test_an_image_that_cannot_be_prepared_frees_its_place():
    room = Room(capacity=1)
    with pytest.raises(ValueError, match="damaged"), room.queue.reserve():
        raise ValueError("damaged")
    room.queue.admit()


@pytest.mark.parametrize(
    ("backlog", "seconds"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.2, 2), (4.0, 4), (5.0, 5), (5.1, 6)]
)
def test_a_retry_makes_sense_when_the_backlog_is_gone_and_never_at_once(backlog, seconds):
    async def run():
        room = Room(capacity=1, cost=lambda _item: backlog)
        room.queue.join(1, FAR)
        return room.queue.rejection().retry_after_seconds

    assert asyncio.run(run()) == seconds


@in_loop
async def test_an_item_that_the_backlog_keeps_from_its_deadline_is_rejected_at_once():
    room = Room(cost=lambda item: item)
    room.queue.join(2.0, FAR)
    room.queue.take()  # runs, and so does its part of the backlog
    room.queue.join(1.5, FAR)
    with pytest.raises(
        Unavailable, match=r"the test queue needs about 5\.5 s, and deadline_ms leaves 5 s"
    ) as rejected:
        room.queue.join(2.0, room.clock.now + 5.0)
    assert rejected.value.retry_after_seconds == 4  # 3.5 s, rounded up
    assert room.rejected("deadline") == 1
    assert room.queue.waiting == 1
    assert room.queue.backlog_seconds == 3.5


@in_loop
async def test_an_item_that_just_fits_before_its_deadline_is_accepted():
    room = Room(cost=lambda _item: 2.0)
    room.queue.join(1, FAR)
    room.queue.join(2, room.clock.now + 4.0)
    with pytest.raises(Unavailable, match="leaves 6 s"):
        room.queue.join(3, room.clock.now + 5.999)
    assert room.queue.waiting == 2


@in_loop
async def test_a_rejection_after_the_deadline_leaves_no_negative_seconds():
    room = Room(cost=lambda _item: 1.0)
    with pytest.raises(Unavailable, match="deadline_ms leaves 0 s"):
        room.queue.join(1, room.clock.now - 3.0)


@in_loop
async def test_a_caller_who_leaves_frees_its_place_and_its_share_of_the_backlog():
    room = Room(cost=lambda item: item)
    room.queue.join(2.0, FAR)
    waiting = asyncio.create_task(room.queue.result(room.queue.join(3.0, FAR)))
    await asyncio.sleep(0)
    assert room.queue.backlog_seconds == 5.0
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.queue.waiting == 1
    assert room.queue.backlog_seconds == 2.0
    assert room.metric("candor_queue_depth") == 1
    assert room.metric("candor_in_flight") == 1


@in_loop
async def test_a_caller_who_left_is_not_worked_for_and_leaves_no_backlog():
    room = Room(cost=lambda _item: 2.0)
    first, second = room.queue.join(1, FAR), room.queue.join(2, FAR)
    first.future.cancel()  # its coroutine has not run yet
    assert room.queue.take() == [second]
    assert room.queue.backlog_seconds == 2.0
    assert room.metric("candor_in_flight") == 1


@in_loop
async def test_a_caller_who_leaves_while_its_batch_runs_is_counted_once():
    room = Room(cost=lambda _item: 2.0)
    ticket = room.queue.join(1, FAR)
    running = asyncio.create_task(room.queue.result(ticket))
    await asyncio.sleep(0)
    room.queue.join(2, FAR)
    batch = room.queue.take()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ticket.settled
    assert room.queue.backlog_seconds == 4.0
    room.queue.complete(batch, 1.0)
    assert room.queue.backlog_seconds == 0.0
    assert room.metric("candor_in_flight") == 0


@in_loop
async def test_a_deadline_that_passes_in_the_queue_ends_the_wait_and_the_others_run():
    room = Room(cost=lambda _item: 2.0)
    late = room.queue.join(1, room.clock.now + 2.0)
    just = room.queue.join(2, room.clock.now + 4.5)
    room.clock.sleep(4.5)
    assert room.queue.take() == [just]
    assert room.queue.backlog_seconds == 2.0
    assert room.metric("candor_queue_depth") == 0
    assert room.metric("candor_in_flight") == 1
    with pytest.raises(DeadlineExceeded, match=r"4\.5 s passed in the test queue"):
        await room.queue.result(late)


def on_time(**options):
    """A queue on the real clock, whose items are expected to take no time."""
    return Room(clock=time.perf_counter, cost=lambda _item: 0.0, **options).queue


async def late(queue, ticket):
    """How many seconds after its deadline a ticket is given up, and the message."""
    with pytest.raises(DeadlineExceeded) as error:
        await queue.result(ticket)
    return queue.clock() - ticket.deadline, str(error.value)


@in_loop
async def test_callers_get_their_error_at_their_deadline_though_nothing_is_taken():
    queue = on_time(capacity=3)
    deadlines = [queue.clock() + seconds for seconds in (0.2, 0.1, FAR)]
    second, first, _ = [queue.join(1, deadline) for deadline in deadlines]
    async with asyncio.timeout(5):
        found = await asyncio.gather(late(queue, first), late(queue, second))
    for seconds, message in found:
        assert seconds >= 0
        assert "s passed in the test queue and deadline_ms is over: retry later" in message
    assert found[0][0] < 0.1, "the first had to wait for the second"
    assert queue.waiting == 1
    queue.admit()


@in_loop
async def test_a_deadline_that_passes_while_the_batch_runs_ends_the_wait_and_not_the_batch():
    queue = on_time()
    ticket = queue.join(1, queue.clock() + 0.05)
    other = queue.join(2, FAR)
    batch = queue.take()
    async with asyncio.timeout(5):
        seconds, message = await late(queue, ticket)
    assert seconds >= 0
    assert "s passed in the test lane" in message
    assert batch == [ticket, other]
    assert ticket.settled
    assert not other.settled
    queue.complete(batch, 0.1)
    assert queue.backlog_seconds == 0.0


@in_loop
async def test_a_later_deadline_is_kept_after_an_earlier_one_has_passed():
    queue = on_time()
    first = queue.join(1, queue.clock() + 0.02)
    async with asyncio.timeout(5):
        await late(queue, first)
        await late(queue, queue.join(2, queue.clock() + 0.02))
        taken = queue.join(3, queue.clock() + 0.02)
        queue.complete(queue.take(), 0.0)
        taken.resolve("answer", queue.clock(), 0.0)
        await late(queue, queue.join(4, queue.clock() + 0.05))


@in_loop
async def test_a_finished_batch_leaves_the_backlog():
    room = Room(cost=lambda _item: 2.0)
    room.queue.join(1, FAR)
    room.queue.join(2, FAR)
    batch = room.queue.take()
    assert room.queue.backlog_seconds == 4.0
    room.queue.complete(batch, 0.1)
    assert room.queue.backlog_seconds == 0.0


@in_loop
async def test_without_a_forecast_an_item_is_expected_to_take_the_recent_mean_of_one_item():
    room = Room()
    for item in range(4):
        room.queue.join(item, FAR)
    room.queue.complete(room.queue.take(), 8.0)  # 2 s an item, of which a fifth counts
    assert room.queue.join(4, FAR).cost == pytest.approx(0.4)
    room.queue.complete(room.queue.take(), 0.4)
    assert room.queue.join(5, FAR).cost == pytest.approx(0.4)


@in_loop
async def test_items_leave_in_their_order_up_to_the_limit_of_a_batch():
    room = Room(most_rows=2)
    tickets = [room.queue.join(item, FAR) for item in range(3)]
    assert room.queue.take() == tickets[:2]
    assert room.metric("candor_queue_depth") == 1
    assert room.queue.take() == tickets[2:]
    assert room.queue.take() == []


@in_loop
async def test_an_item_is_in_flight_from_admission_to_the_end_of_its_batch():
    room = Room()
    room.queue.join(1, FAR)
    assert room.metric("candor_in_flight") == 1
    batch = room.queue.take()
    room.queue.join(2, FAR)
    assert room.metric("candor_in_flight") == 2
    room.queue.complete(batch, 1.0)
    assert room.metric("candor_in_flight") == 1


@in_loop
async def test_the_size_of_a_batch_is_observed_once():
    room = Room()
    for item in range(3):
        room.queue.join(item, FAR)
    room.queue.complete(room.queue.take(), 1.0)
    assert room.metric("candor_batch_size_count") == 1
    assert room.metric("candor_batch_size_sum") == 3


@in_loop
async def test_a_closed_queue_rejects_new_items_and_keeps_the_others():
    room = Room()
    ticket = room.queue.join(1, FAR)
    room.queue.close()
    with pytest.raises(Unavailable, match="the service is stopping: ask another replica"):
        room.queue.join(2, FAR)
    assert room.rejected("stopping") == 1
    assert room.queue.wait()
    assert room.queue.take() == [ticket]
    assert not room.queue.wait()


def test_a_thread_waits_until_the_queue_has_an_item_or_is_closed():
    async def run(act):
        room, answers = Room(), []
        thread = threading.Thread(target=lambda: answers.append(room.queue.wait()))
        thread.start()
        act(room.queue)
        await asyncio.to_thread(thread.join, 10)
        return answers

    assert asyncio.run(run(lambda queue: queue.join(1, FAR))) == [True]
    assert asyncio.run(run(lambda queue: queue.close())) == [False]


@in_loop
async def test_a_caller_gets_its_result_or_its_error_with_the_seconds():
    room = Room()
    good, bad = room.queue.join(1, FAR), room.queue.join(2, FAR)
    good.resolve("answer", room.clock.now + 5.0, 3.0, 4)
    bad.resolve(ValueError("unlucky"), room.clock.now + 5.0, 3.0)
    assert await room.queue.result(good) == ("answer", 5.0, 3.0, 4)
    with pytest.raises(ValueError, match="unlucky"):
        await room.queue.result(bad)
