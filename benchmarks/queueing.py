"""A simulation of replicas behind a balancer, event by event, on measured service times.

It has what decides how long a caller waits: the balance of HAProxy, workers with a core each, the
places of the queue, batches of what waits together, deadlines. It is the thread lane's: the event
loop reads and answers, and is served before a batch, as the kernel serves a thread that slept; the
core does the same work in total. Its queue answers as the service's own does, and its balance is
that of a real HAProxy: tests play both.

Times are seconds; all chance comes from a seed.

    arrival ─balance─▶ server ─fewest in flight─▶ worker
        loop: `before` ─▶ queue, if it has a place ─▶ batch of up to `most_rows` ─▶ loop: `after`
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

NEWEST_WEIGHT = 0.2  # of the forecast of an image, as `service.schedule.timing.RecentMean`

Balance = Literal["leastconn", "roundrobin"]
Status = Literal[200, 429, 503, 504]


@dataclass(frozen=True)
class Costs:
    """The seconds of a core: `before` and `after` the batch for each request, and of a `batch` of
    so many rows, which may draw.
    """

    batch: Callable[[int, np.random.Generator], float]
    before: float = 0.0
    after: float = 0.0

    def times(self, factor: float) -> "Costs":
        """The same of a core that takes `factor` times as long."""
        return Costs(
            lambda rows, random: factor * self.batch(rows, random),
            factor * self.before,
            factor * self.after,
        )


@dataclass(frozen=True)
class Setup:
    """The replicas: `places` are those of a worker's queue, beside what it runs."""

    servers: int = 2
    workers: int = 1
    places: int = 128
    most_rows: int = 32
    deadline: float = 10.0
    balance: Balance = "leastconn"


class Outcome(NamedTuple):
    """The HTTP status of a request and the seconds until it was answered, by which server."""

    status: Status
    seconds: float
    server: int


@dataclass(eq=False)
class Request:
    """A request on its way."""

    number: int
    arrived: float
    deadline: float
    server: "Server"
    worker: "Worker"
    cost: float = 0.0


@dataclass(eq=False)
class Worker:
    """A process with a core, an event loop and a lane."""

    loop_free: float = 0.0
    batch: list[Request] = field(default_factory=list)
    batch_began: float = 0.0
    batch_ends: float = 0.0
    batch_seconds: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    preparing: int = 0
    in_flight: int = 0
    mean: float = 0.0
    backlog: float = 0.0

    def take_loop(self, now: float, seconds: float) -> float:
        """The end of `seconds` of work of the event loop, during which a batch pauses."""
        self.loop_free = max(now, self.loop_free) + seconds
        self.batch_ends += seconds
        return self.loop_free


@dataclass(eq=False)
class Server:
    """A replica; `placed` orders those of equal load, as HAProxy's tree does."""

    number: int
    workers: Sequence[Worker]
    in_flight: int = 0
    placed: int = 0


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """The times of arrivals at `rate` a second, independent of one another."""
    drawn = np.random.default_rng(seed).exponential(1 / rate, round(2 * rate * seconds) + 100)
    times = np.cumsum(drawn)
    return [float(time) for time in times[times < seconds]]


def simulate(arrivals: Sequence[float], costs: Costs, setup: Setup, seed: int = 0) -> list[Outcome]:
    """The outcome of each request, in the order of `arrivals`, which are ascending."""
    return Simulation(costs, setup, seed).run(arrivals)


class Simulation:
    """The state of all servers, and the events to come."""

    def __init__(self, costs: Costs, setup: Setup, seed: int) -> None:
        self._costs, self._setup = costs, setup
        self._random = np.random.default_rng(seed)
        self._servers = [
            Server(number, [Worker() for _ in range(setup.workers)])
            for number in range(setup.servers)
        ]
        self._turns = itertools.count(1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._outcomes: dict[int, Outcome] = {}
        self._batch_seconds: list[float] = []

    @property
    def batch_seconds(self) -> float:
        """The mean seconds of the batch of an image, with the pauses for the loop."""
        return float(np.mean(self._batch_seconds))

    def run(self, arrivals: Sequence[float]) -> list[Outcome]:
        """Plays all events."""
        for number, time in enumerate(arrivals):
            self._at(time, partial(self._arrive, number=number))
        while self._events:
            now, _, event = heapq.heappop(self._events)
            event(now)
        return [self._outcomes[number] for number in range(len(arrivals))]

    def _at(self, time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), event))

    def _arrive(self, now: float, number: int) -> None:
        server = self._balanced()
        worker = min(server.workers, key=lambda each: each.in_flight)
        deadline = now + self._setup.deadline
        request = Request(number, now, deadline, server, worker)
        self._count(request, 1)
        self._drop_late(worker, now)
        if len(worker.waiting) + worker.preparing >= self._setup.places:
            self._end(request, 429, now)
            return
        worker.preparing += 1
        self._at(worker.take_loop(now, self._costs.before), lambda at: self._join(at, request))

    def _balanced(self) -> Server:
        if self._setup.balance == "roundrobin":
            return min(self._servers, key=lambda each: each.placed)
        return min(self._servers, key=lambda each: (each.in_flight, each.placed))

    def _count(self, request: Request, change: int) -> None:
        request.server.in_flight += change
        request.worker.in_flight += change
        if change > 0 or self._setup.balance == "leastconn":
            request.server.placed = next(self._turns)

    def _join(self, now: float, request: Request) -> None:
        worker = request.worker
        worker.preparing -= 1
        request.cost = worker.mean
        if now + worker.backlog + request.cost > request.deadline:
            self._end(request, 503, now)
            return
        worker.waiting.append(request)
        worker.backlog += request.cost
        if not worker.batch:
            self._start_batch(now, worker)

    def _start_batch(self, now: float, worker: Worker) -> None:
        self._drop_late(worker, now)
        rows = min(self._setup.most_rows, len(worker.waiting))
        worker.batch = [worker.waiting.popleft() for _ in range(rows)]
        if not rows:
            return
        worker.batch_began = now
        worker.batch_seconds = self._costs.batch(rows, self._random)
        worker.batch_ends = max(now, worker.loop_free) + worker.batch_seconds
        self._at(worker.batch_ends, lambda at: self._end_batch(at, worker))

    def _end_batch(self, now: float, worker: Worker) -> None:
        if now < worker.batch_ends:  # the loop had work meanwhile
            self._at(worker.batch_ends, lambda at: self._end_batch(at, worker))
            return
        batch, worker.batch = worker.batch, []
        each = worker.batch_seconds / len(batch)
        self._batch_seconds += [now - worker.batch_began] * len(batch)
        worker.mean += NEWEST_WEIGHT * (each - worker.mean)
        for request in batch:
            worker.backlog -= request.cost
            end = worker.take_loop(now, self._costs.after)
            self._at(end, partial(self._answer, request=request))
        self._start_batch(now, worker)

    def _answer(self, now: float, request: Request) -> None:
        late = now > request.deadline
        self._end(request, 504 if late else 200, min(now, request.deadline))

    def _drop_late(self, worker: Worker, now: float) -> None:
        """Answers those that wait past their deadline; all have the same time, so in order."""
        while worker.waiting and worker.waiting[0].deadline < now:
            request = worker.waiting.popleft()
            worker.backlog -= request.cost
            self._end(request, 504, request.deadline)

    def _end(self, request: Request, status: Status, now: float) -> None:
        self._count(request, -1)
        seconds = now - request.arrived
        self._outcomes[request.number] = Outcome(status, seconds, request.server.number)
