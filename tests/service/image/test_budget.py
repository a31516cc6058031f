"""A budget never holds more than its limit, and gives turns in order."""

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import TooManyRequests
from service.image import budget
from service.image.budget import Budget, BudgetMetrics
from service.telemetry.metrics import Metrics

LIMIT = 1_600  # one holder has at most 1,200; up to 100 are small


def soon():
    return time.perf_counter() + 5


@pytest.fixture
def images():
    return Budget("images", LIMIT)


def test_what_fits_is_held_until_its_release(images):
    with images.take(1_000):
        assert images.used_bytes == 1_000
    assert images.used_bytes == 0


def test_a_second_release_gives_nothing_back(images):
    first, _second = images.take(100), images.take(100)
    first.release()
    first.release()
    assert images.used_bytes == 100


def test_what_does_not_fit_now_is_rejected_with_value_and_limit(images):
    images.take(1_200)
    with pytest.raises(TooManyRequests, match=r"0.0012 MB of memory for images are in use; .*late"):
        images.take(200)
    images.take(100)  # a small one has a place beside the largest


def test_a_lease_that_grows_stays_within_the_limit(images):
    lease = images.take()
    lease.grow(90)
    lease.grow(1_110)
    with pytest.raises(TooManyRequests):
        lease.grow(1)
    assert lease.held_bytes == images.used_bytes == 1_200


def test_turns_come_in_the_order_of_arrival(images):
    order = []

    async def hold(name, size):
        with await images.hold(size, soon()):
            order.append(name)
            await asyncio.sleep(0.01)

    async def all_of_them():
        # The third would fit beside the first, but the second was there before it.
        await asyncio.gather(hold("first", 800), hold("second", 1_000), hold("third", 300))

    asyncio.run(all_of_them())
    assert order == ["first", "second", "third"]
    assert images.used_bytes == 0


def test_a_small_one_passes_a_large_one_that_waits(images):
    async def steps():
        large = images.take(1_000)
        waiting = asyncio.ensure_future(images.hold(1_000, soon()))
        await asyncio.sleep(0)
        (await images.hold(100, soon())).release()
        assert not waiting.done()
        large.release()
        (await waiting).release()

    asyncio.run(steps())
    assert images.used_bytes == 0


def test_a_turn_that_does_not_come_by_the_deadline_is_a_429(images):
    async def steps():
        held = images.take(1_000)
        with pytest.raises(TooManyRequests) as caught:
            await images.hold(1_000, time.perf_counter() + 0.02)
        assert caught.value.retry_after_seconds == 1
        held.release()
        (await images.hold(1_200, soon())).release()

    asyncio.run(steps())
    assert images.used_bytes == 0


def test_one_that_leaves_frees_its_turn_for_the_next(images):
    async def steps():
        held = images.take(1_000)
        leaving = asyncio.ensure_future(images.hold(1_100, soon()))
        next_one = asyncio.ensure_future(images.hold(150, soon()))
        await asyncio.sleep(0)
        leaving.cancel()
        (await next_one).release()
        held.release()

    asyncio.run(steps())
    assert images.used_bytes == 0


def test_one_that_leaves_as_its_turn_comes_gives_it_back(images):
    async def steps():
        held = images.take(1_000)
        leaving = asyncio.ensure_future(images.hold(1_100, soon()))
        await asyncio.sleep(0)
        held.release()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(steps())
    assert images.used_bytes == 0


def test_only_so_many_wait(images):
    async def steps():
        held = images.take(1_000)
        waiting = [
            asyncio.ensure_future(images.hold(1_000, soon())) for _ in range(budget.MOST_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await images.hold(1_000, soon())
        for each in waiting:
            each.cancel()
        held.release()

    asyncio.run(steps())


def test_threads_wait_for_their_turn(images):
    held, seen = images.take(1_000), []

    def work():
        with images.wait(1_000):
            seen.append(images.used_bytes)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert seen == []
    held.release()
    for thread in threads:
        thread.join(5)
    assert (seen, images.used_bytes) == ([1_000] * 4, 0)


@given(st.lists(st.tuples(st.integers(1, 1_200), st.integers(0, 3)), max_size=30))
def test_no_order_of_callers_exceeds_the_limit_or_loses_a_byte(callers):
    images = Budget("images", LIMIT)

    async def call(size, patience):
        try:
            async with asyncio.timeout(0.001 * patience if patience else None):
                with await images.hold(size, soon()):
                    assert images.used_bytes <= LIMIT
                    await asyncio.sleep(0)
        except TimeoutError:
            pass

    async def all_of_them():
        await asyncio.gather(*(call(*caller) for caller in callers))

    asyncio.run(all_of_them())
    assert images.used_bytes == 0


def test_use_limit_and_rejections_are_metrics():
    metrics = Metrics()
    counted = BudgetMetrics(
        metrics.budget_used.labels("images"),
        metrics.budget_limit.labels("images"),
        {budget.FULL: metrics.budget_rejected.labels("images", budget.FULL)},
    )
    images = Budget("images", LIMIT, counted)
    images.take(1_000)
    with pytest.raises(TooManyRequests):
        images.take(1_000)
    text = metrics.text().decode()
    assert 'candor_budget_used_bytes{budget="images"} 1000.0' in text
    assert 'candor_budget_limit_bytes{budget="images"} 1600.0' in text
    assert 'candor_budget_rejected_total{budget="images",reason="full"} 1.0' in text


def test_defaults_are_shares_of_what_the_models_leave():
    alone, one_of_four = budget.images_bytes(0, 1), budget.images_bytes(0, 4)
    assert one_of_four < alone < budget.left_bytes(1)
    assert budget.bodies_bytes(0, 10, 1) < alone
    assert budget.images_bytes(10**9, 1) == 10**9
    assert budget.images_bytes(0, 10**6) == budget.LEAST_BYTES


def test_one_of_the_largest_bodies_always_fits():
    bodies = Budget("bodies", budget.bodies_bytes(1, 10**9, 1))
    bodies.take(10**9).release()


def test_the_largest_image_is_given_or_what_fits_at_all():
    tight, wide = Budget("images", 10**8), Budget("images", 10**12)
    assert budget.most_pixels(0, tight) == 10**7
    assert budget.most_pixels(0, wide) == 50_000_000
    assert budget.most_pixels(123, tight) == 123
