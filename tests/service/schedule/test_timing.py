"""Seconds by stage, deadlines and recent means."""

import pytest

from service.schedule.timing import DEADLINE_MS, RecentMean, Timing
from service.telemetry import account
from service.telemetry.account import Account
from service.telemetry.metrics import Metrics


def test_a_recent_mean_moves_a_fifth_of_the_way():
    mean = RecentMean(1.0)
    mean.add(2.0)
    assert mean.seconds == pytest.approx(1.2)
    mean.add(0.2)
    assert mean.seconds == pytest.approx(1.0)


def test_a_request_has_the_usual_deadline_until_it_names_one():
    timing = Timing(Metrics())
    assert timing.deadline == timing.started + DEADLINE_MS / 1000
    timing.allow(250)
    assert timing.deadline == timing.started + 0.25


def test_the_seconds_of_a_stage_add_up():
    timing = Timing(Metrics())
    timing.add("queue", 0.5)
    timing.add("queue", 0.25)
    timing.add("infer", 1.0)
    milliseconds = timing.milliseconds()
    assert (milliseconds["queue"], milliseconds["infer"]) == (750, 1000)
    assert milliseconds["total"] >= 0


def test_a_stage_that_raises_is_not_counted():
    timing = Timing(Metrics())
    with pytest.raises(ValueError, match="damaged"), timing.of("decode"):
        raise ValueError("damaged")
    assert not timing.seconds
    with timing.of("decode"):
        pass
    assert timing.seconds.keys() == {"decode"}


def test_a_trace_gets_the_end_of_each_stage():
    token = account.current.set(Account())
    try:
        timing = Timing(Metrics())
        timing.add("queue", 2.0, ago=3.0)
        timing.add("infer", 3.0, lane="predict", batch_size=4)
        queued, inferred = account.current.get().stages
    finally:
        account.current.reset(token)
    assert (queued.name, queued.seconds, inferred.name) == ("queue", 2.0, "infer")
    assert inferred.ended - queued.ended == pytest.approx(3.0, abs=1.0)
    assert (queued.facts, inferred.facts) == ({}, {"lane": "predict", "batch_size": 4})
