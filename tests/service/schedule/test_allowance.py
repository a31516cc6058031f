"""Token buckets of callers: what is taken at once, how it comes back, and what a rejection says."""

import pytest

from service.errors import TooManyRequests
from service.schedule.allowance import (
    BURST_SECONDS,
    MEGAPIXELS,
    PASSES,
    RESOURCES,
    Allowances,
    Caller,
    Rates,
)
from service.telemetry.metrics import Metrics
from service.workers.shared_times import SharedTimes
from support.clock import Clock

ALICE, BOB = Caller("key alice"), Caller("key bob")


def allowances(passes=10, megapixels=0, rejected=None, clock=None):
    return Allowances(Rates(passes, megapixels), SharedTimes(), rejected, clock or Clock())


def taken(held, caller, resource=PASSES):
    """How many times one can be taken now."""
    for count in range(10_000):
        try:
            held.charge(caller, resource, 1.0)
        except TooManyRequests:
            return count
    raise AssertionError("there is no limit")


def test_a_bucket_holds_ten_seconds_of_its_rate_and_fills_at_it():
    clock = Clock()
    held = allowances(passes=10, clock=clock)
    assert taken(held, ALICE) == pytest.approx(BURST_SECONDS * 10, abs=1)
    clock.sleep(2.0)
    assert 19 <= taken(held, ALICE) <= 21
    clock.sleep(1_000)
    assert taken(held, ALICE) == pytest.approx(BURST_SECONDS * 10, abs=1)


def test_over_a_long_time_the_rate_holds():
    clock, count = Clock(), 0
    held = allowances(passes=10, clock=clock)
    for _ in range(1_000):
        clock.sleep(0.1)
        count += taken(held, ALICE)
    assert count == pytest.approx(10 * (100 + BURST_SECONDS), rel=0.01)


def test_a_request_larger_than_the_bucket_runs_and_is_owed():
    clock = Clock()
    held = allowances(passes=10, clock=clock)
    held.charge(ALICE, PASSES, 1_000.0)
    with pytest.raises(TooManyRequests) as caught:
        held.check(ALICE)
    assert caught.value.retry_after_seconds == 90
    assert str(caught.value) == (
        "key alice has used its forward passes, 10 a second and 100 at once: retry in 90 s"
    )
    clock.sleep(90.01)
    held.check(ALICE)


def test_each_caller_has_its_own_bucket_and_each_resource():
    held = allowances(passes=10, megapixels=1)
    taken(held, ALICE)
    with pytest.raises(TooManyRequests):
        held.check(ALICE)
    held.check(BOB)
    assert taken(held, ALICE, MEGAPIXELS) == pytest.approx(BURST_SECONDS, abs=1)


def test_a_key_may_have_rates_of_its_own():
    held = allowances(passes=10)
    assert taken(held, Caller("small", Rates(passes=1))) == pytest.approx(BURST_SECONDS, abs=1)
    held.charge(Caller("free", Rates(passes=0)), PASSES, 1e9)
    held.check(Caller("free", Rates(passes=0)))
    assert taken(held, Caller("pixels", Rates(megapixels=1))) == pytest.approx(
        BURST_SECONDS * 10, abs=1
    )


def test_without_rates_there_is_no_limit():
    held = allowances(passes=0)
    held.charge(ALICE, PASSES, 1e12)
    held.check(ALICE)


def test_rejections_are_counted_by_resource():
    metrics = Metrics()
    counters = {resource: metrics.allowance_rejected.labels(resource) for resource in RESOURCES}
    taken(allowances(megapixels=1, rejected=counters), ALICE, MEGAPIXELS)
    text = metrics.text().decode()
    assert 'candor_allowance_rejected_total{resource="megapixels"} 1.0' in text
    assert 'candor_allowance_rejected_total{resource="passes"} 0.0' in text
