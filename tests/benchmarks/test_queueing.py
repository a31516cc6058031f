"""The simulation of replicas beside closed forms of queueing theory, scenes done by hand, and the
service's own queue.
"""

import asyncio
import math

import numpy as np
import pytest

from benchmarks.queueing import Costs, Setup, Simulation, poisson, simulate
from service.errors import TooManyRequests, Unavailable
from service.schedule.queue import Queue, QueueMetrics, Ticket
from service.telemetry.metrics import Metrics
from support.clock import Clock

EXPONENTIAL = Costs(lambda _rows, random: float(random.exponential()))
CONSTANT = Costs(lambda _rows, _random: 1.0)
ENDLESS = 10**9
ONE = Setup(servers=1, places=ENDLESS, most_rows=1, deadline=ENDLESS)
# Thrice the standard error over so many arrivals, by twelve seeds: of a mean, and of a tail.
NOISE, TAIL_NOISE = 0.07, 0.13
SECONDS = 60_000


def mean(outcomes):
    return np.mean([one.seconds for one in outcomes if one.status == 200])


def test_poisson_arrivals_have_their_rate_and_no_memory():
    times = np.array(poisson(5.0, 4_000, seed=1))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)
    assert poisson(5.0, 100, seed=1) == list(times[times < 100])


@pytest.mark.parametrize("load", [0.5, 0.7])
def test_one_server_of_exponential_times_waits_as_m_m_1_says(load):
    found = simulate(poisson(load, SECONDS, seed=2), EXPONENTIAL, ONE, seed=3)
    assert mean(found) == pytest.approx(1 / (1 - load), rel=NOISE)
    share = np.mean([one.seconds > 2 / (1 - load) for one in found])
    assert share == pytest.approx(np.exp(-2), rel=TAIL_NOISE)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_of_constant_times_waits_as_m_d_1_says(load):
    found = simulate(poisson(load, SECONDS, seed=4), CONSTANT, ONE)
    assert mean(found) == pytest.approx(1 + load / (2 * (1 - load)), rel=NOISE)


@pytest.mark.parametrize("load", [0.8, 1.2])
def test_a_bounded_queue_rejects_as_m_m_1_k_says(load):
    places = 5
    setup = Setup(servers=1, places=places - 1, most_rows=1, deadline=ENDLESS)
    found = simulate(poisson(load, 40_000, seed=5), EXPONENTIAL, setup, seed=6)
    states = load ** np.arange(places + 1)
    states /= states.sum()
    rejected = np.mean([one.status == 429 for one in found])
    assert rejected == pytest.approx(states[-1], rel=NOISE)
    served = load * (1 - states[-1])
    assert mean(found) == pytest.approx(states @ np.arange(places + 1) / served, rel=NOISE)


def test_servers_in_turn_wait_as_e2_m_1_says():
    """Of two servers in turn each gets every second arrival, gaps of Erlang's distribution."""
    load = 0.8
    setup = Setup(servers=2, places=ENDLESS, most_rows=1, deadline=ENDLESS, balance="roundrobin")
    found = simulate(poisson(2 * load, SECONDS / 2, seed=7), EXPONENTIAL, setup, seed=8)
    root = 0.5
    for _ in range(100):
        root = (2 * load / (2 * load + 1 - root)) ** 2
    assert mean(found) == pytest.approx(1 / (1 - root), rel=NOISE)
    assert [one.server for one in found[:4]] == [0, 1, 0, 1]


def test_the_least_loaded_server_is_between_turns_and_one_queue_for_both():
    load, means = 0.8, {}
    arrivals = poisson(2 * load, SECONDS / 2, seed=9)
    for balance in ("leastconn", "roundrobin"):
        setup = Setup(places=ENDLESS, most_rows=1, deadline=ENDLESS, balance=balance)
        means[balance] = mean(simulate(arrivals, EXPONENTIAL, setup, seed=10))
    erlang_c = 1 / (1 - load**2)  # M/M/2
    assert (1 - NOISE) * erlang_c < means["leastconn"] < 0.9 * means["roundrobin"]


def test_two_workers_share_the_requests_of_a_server():
    setup = Setup(servers=1, workers=2, most_rows=1)
    assert [one.seconds for one in simulate([0, 0, 0], CONSTANT, setup)] == [1, 1, 2]


def seconds(arrivals, costs, **setup):
    found = simulate(arrivals, costs, Setup(servers=1, **setup))
    return [(one.status, round(one.seconds, 9)) for one in found]


def test_what_waits_together_runs_together_up_to_the_most_rows():
    law = Costs(lambda rows, _random: 1 + rows)
    # The first runs alone until 2; two of the others until 5, the last until 7.
    assert seconds([0, 0.5, 1, 1.5], law, most_rows=2) == [
        (200, 2),
        (200, 4.5),
        (200, 4),
        (200, 5.5),
    ]


def test_a_batch_pauses_for_the_work_of_the_loop():
    costs = Costs(lambda _rows, _random: 1.0, before=0.1, after=0.2)
    # The first joins at 0.1, runs for 1 and for the 0.1 of the second: it ends at 1.2, and 1.4.
    # The second runs after that, and after the answer to the first: from 1.4 to 2.4, and 2.6.
    assert seconds([0, 0.5], costs) == [(200, 1.4), (200, 2.1)]


def test_a_batch_lasts_as_long_as_a_server_would_say_that_it_did():
    """Its stage `infer` is that of each image, and goes on while the loop works."""
    law = Costs(lambda rows, _random: 1.0 * rows, before=0.1)
    simulation = Simulation(law, Setup(servers=1), seed=0)
    # One of 1.2 with the work of two others, then one of 2 for each of both.
    assert len(simulation.run([0, 0.5, 0.5])) == 3
    assert simulation.batch_seconds == pytest.approx((1.2 + 2 * 2) / 3)
    slower = Simulation(law.times(3), Setup(servers=1), seed=0)
    slower.run([0, 1.5, 1.5])
    assert slower.batch_seconds == pytest.approx(3 * simulation.batch_seconds)


def test_a_place_is_free_again_when_a_batch_begins():
    law = Costs(lambda _rows, _random: 1.0)
    assert seconds([0, 0.1, 0.2, 0.9, 1.1], law, places=1, most_rows=1) == [
        (200, 1.0),
        (200, 1.9),
        (429, 0.0),
        (429, 0.0),
        (200, 1.9),
    ]


def test_a_deadline_is_refused_where_the_backlog_does_not_fit_and_kept_otherwise():
    law = Costs(lambda _rows, _random: 1.0)
    # Nothing is known at first, and the second waits in vain. Later the forecast is 0.2 s an image.
    first = seconds([0, 0.1], law, most_rows=1, deadline=0.5)
    assert first == [(504, 0.5), (504, 0.5)]
    arrivals = [0, *(2 + number / 1_000 for number in range(6))]
    found = seconds(arrivals, law, most_rows=1, deadline=1.1)
    assert [status for status, _ in found] == [200, 200, 504, 504, 504, 504, 503]


class Replay:
    """The service's own queue, played in the time of a clock that stands still between events."""

    def __init__(self, law, setup):
        self._law, self._deadline = law, setup.deadline
        self._clock = Clock(now=0.0)
        self._queue = Queue(
            "predict",
            capacity=setup.places,
            most_rows=setup.most_rows,
            metrics=QueueMetrics.of(Metrics(), "predict"),
            clock=self._clock,
        )
        self._batch, self._ends, self._seconds = [], math.inf, 0.0

    async def run(self, arrivals):
        """The status and the seconds of each request."""
        found = []
        for arrived in arrivals:
            while self._ends <= arrived:
                await self._end_batch()
            await self._at(arrived)
            try:
                ticket = self._queue.join(len(found), arrived + self._deadline)
            except TooManyRequests:
                found.append((429, 0.0))
            except Unavailable:
                found.append((503, 0.0))
            else:
                found.append(ticket)
                if not self._batch:
                    self._begin_batch()
        while self._ends < math.inf:
            await self._end_batch()
        return [self._outcome(one) if isinstance(one, Ticket) else one for one in found]

    async def _at(self, now):
        """Sets the clock, and does what the queue's own timer does then."""
        self._clock.now = now
        self._queue._expire(asyncio.get_running_loop())
        await asyncio.sleep(0)

    def _begin_batch(self):
        self._batch = self._queue.take()
        self._ends = math.inf
        if self._batch:
            self._seconds = self._law(len(self._batch))
            self._ends = self._clock.now + self._seconds

    async def _end_batch(self):
        now, batch = self._ends, self._batch
        await self._at(now)
        self._queue.complete(batch, self._seconds)
        for ticket in batch:
            ticket.resolve(now, now, 0.0)
        self._begin_batch()
        await asyncio.sleep(0)

    def _outcome(self, ticket):
        if ticket.future.exception():
            return 504, self._deadline
        return 200, round(ticket.future.result().result - ticket.joined, 6)


@pytest.mark.parametrize("load", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("deadline", [400.0, 4_000.0])
def test_a_worker_admits_batches_and_gives_up_as_the_services_own_queue_does(load, deadline):
    """Batches of up to 4 take 40 and 60 for each; seconds are so long that no real timer fires."""
    setup = Setup(servers=1, places=10, most_rows=4, deadline=deadline)
    law = {rows: 40.0 + 60 * rows for rows in range(1, 5)}
    arrivals = poisson(load * 4 / law[4], 60_000, seed=11)
    simulated = simulate(arrivals, Costs(lambda rows, _random: law[rows]), setup)
    real = asyncio.run(Replay(law.__getitem__, setup).run(arrivals))
    assert [(one.status, round(one.seconds, 6)) for one in simulated] == real
    if load > 1:
        rejected = {503, 504} if deadline == 400 else {429}
        assert {one.status for one in simulated} == {200} | rejected
