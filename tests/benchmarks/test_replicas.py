"""What `scripts/bench replicas` makes of its measurements."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.queueing import Setup, Simulation, poisson, simulate
from benchmarks.replicas import (
    Law,
    Row,
    Run,
    Work,
    answered,
    at_pace,
    costs_of,
    highest,
    mean_of,
)
from support.arrivals import Answer

LAW = Law(4, {1: [0.9, 1.1], 2: [1.8, 1.8], 4: [3.0, 3.4]})


def test_a_batch_between_two_that_were_measured_takes_a_time_between_theirs():
    assert [LAW.mean(rows) for rows in (1, 2, 3, 4)] == pytest.approx([1, 1.8, 2.5, 3.2])
    draw, random = LAW.drawn(), np.random.default_rng(0)
    drawn = [draw(4, random) for _ in range(2_000)]
    assert np.mean(drawn) == pytest.approx(3.2, rel=0.01)
    assert {round(value / 3.2, 4) for value in drawn} == {0.9, 1.1, 1.0, 0.9375, 1.0625}


def test_the_simulation_saturates_at_the_capacity_that_its_costs_say():
    """A request takes 2 s of a core, 0.8 in a batch of 4: two servers answer one a second."""
    costs, beside = costs_of(LAW, Work(rows=4.0, batch_seconds=0, cpu=2.0), lone_seconds=2.5)
    assert costs.before + costs.after == pytest.approx(1.2)
    assert beside == pytest.approx(2.5 - 1.2 - 1.0)
    setup = Setup(servers=2, places=128, most_rows=4, deadline=1e9)
    found = simulate(poisson(2.0, 4_000, seed=0), costs, setup)
    assert len(answered(found)) / 4_000 == pytest.approx(1.0, rel=0.08)  # the queue ends full
    assert mean_of(costs, 4) == pytest.approx(0.8, rel=0.02)


def test_costs_that_noise_made_negative_are_none():
    costs, beside = costs_of(LAW, Work(rows=4.0, batch_seconds=0, cpu=0.1), lone_seconds=0.1)
    assert (costs.before, costs.after, beside) == (0, 0, 0)


def test_the_pace_of_the_cores_is_that_of_the_batches():
    """Batches that took twice as long as their processor time: everything does."""
    times = poisson(0.4, 500, seed=1)
    answers = [Answer(number, 200, time, time + 1, b"", b"") for number, time in enumerate(times)]
    work = Work(rows=1.0, batch_seconds=0.0, cpu=1.2)
    costs, _ = costs_of(Law(1, {1: [1.0]}), work, lone_seconds=0)
    setup, run = Setup(servers=2, most_rows=1), Run(answers, times, work, 1.0, 1.0, 0.0)
    for real, found in ((2.0, 2.0), (0.8, 1.0)):  # no core is quicker than its own seconds
        slow = Simulation(costs.times(real), setup, seed=0)
        slow.run(run.sent())
        measured = replace(run, work=replace(work, batch_seconds=slow.batch_seconds))
        outcomes, factor = at_pace(measured, costs, setup, seed=0)
        assert factor == pytest.approx(found, rel=0.02)
        assert len(outcomes) == len(times)


def row(p99, simulated, rejected=0.0, simulated_rejected=0.0):
    return Row(0.8, 10.0, [p99], [simulated], (p99, p99), rejected, simulated_rejected)


@pytest.mark.parametrize(
    ("one", "off"),
    [
        (row(1.0, 1.19), False),
        (row(1.0, 0.79), True),
        (row(1.0, 1.0, 0.005, 0.001), False),
        (row(1.0, 1.0, 0.2, 0.17), False),
        (row(1.0, 1.0, 0.2, 0.15), True),
        (row(1.0, 1.0, 0.0, 0.05), True),
    ],
)
def test_a_row_is_off_where_a_ratio_is_and_rejections_are_no_chance(one, off):
    assert one.is_off(0.2) is off
    assert len(one.cells()) == 11


def test_more_replicas_bear_more_of_their_capacity():
    costs, _ = costs_of(Law(1, {1: [0.01]}), Work(rows=1.0, batch_seconds=0, cpu=0.01), 0.01)
    found = [
        highest(costs, Setup(servers=servers, most_rows=1), 0.01, 0.03, seed=0)
        for servers in (1, 4)
    ]
    assert 0 < found[0] < found[1] < 1
