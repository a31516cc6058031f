"""Two servers behind HAProxy under Poisson arrivals, beside their simulation (benchmarks.queueing).

Each server has one worker and a core of its own; HAProxy and the generator, a few hundredths of
what a prediction of 224 pixels costs, take theirs from both cores, or from others where there are
more. Loads are shares of the capacity, which is measured in the same setting by the same generator.

The simulation gets the very times at which requests were sent; the processor time of a batch, from
a process of its own; and of each load the processor time that all processes took for an answer, and
the mean seconds of a batch from the servers' own histogram, which say how quick the cores were:
other work on the machine changes that. What it adds, and what is compared, is the waiting:
percentiles and rejections.
"""

import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import click
import numpy as np

from benchmarks.queueing import Balance, Costs, Outcome, Setup, Simulation, poisson, simulate
from service.bundle import folder as contract
from service.predictions import calibrate
from service.runtime.engine import Engine
from service.schedule.timing import DEADLINE_MS
from service.settings import EMBEDDED, Settings
from service.workers.host import cpu_seconds, raise_file_limit
from support import arrivals, load
from support.arrivals import Answer, percentile
from support.proxies import haproxy
from support.servers import Server, descendants, free_port

SERVERS, CONNECTIONS, SATURATING = 2, 1_024, 64
WARM_SECONDS, CAPACITY_SECONDS, LONE_SECONDS = 2.0, 4.0, 2.0
ROWS, REPEATS, LAW_SECONDS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), 200, 0.6
OTHER_SEEDS, PACES = 20, 5
OK, REJECTED = 200, (429, 503, 504)
FEWEST_REJECTED = 0.01  # of the requests, for a ratio of rejections to mean something
PLANNED, PLANNED_REQUESTS = (1, 2, 4, 8, 16), 10_000
SHARES = tuple(number / 20 for number in range(1, 20))
PATIENCE = (3, 10)  # p99, in times of a lone request
HEAD = (
    *("load", "sent/s", "p50 ms", "simulated", "p99 ms", "simulated", "by chance"),
    *("rejected", "simulated", "p99, ratio", "rejected, ratio"),
)


@dataclass(frozen=True)
class Law:
    """Processor seconds of batches by their rows, each measured several times, and the most rows
    of one.
    """

    most_rows: int
    seconds: Mapping[int, Sequence[float]]

    def mean(self, rows: float) -> float:
        """The seconds of a batch of so many rows, between those that were measured."""
        means = [statistics.fmean(self.seconds[each]) for each in self.seconds]
        return float(np.interp(rows, list(self.seconds), means))

    def drawn(self) -> Callable[[int, np.random.Generator], float]:
        """What draws the seconds of a batch: the mean, and the spread of the measurements."""
        means = [0.0, *(self.mean(rows) for rows in range(1, self.most_rows + 1))]
        every = [np.array(values) / np.mean(values) for values in self.seconds.values()]
        spread = np.concatenate(every)
        return lambda rows, random: means[rows] * float(spread[random.integers(len(spread))])


Reading = tuple[float, float]  # of a histogram: its count and its sum


@dataclass(frozen=True)
class Work:
    """What was done under a load: the mean rows of a batch, the mean seconds of the batch of an
    image, and the processor seconds of all processes for an answer.
    """

    rows: float
    batch_seconds: float
    cpu: float


@dataclass(frozen=True)
class Capacity:
    """Answers a second under saturation, and the work for them."""

    rate: float
    work: Work


@dataclass(frozen=True)
class Replicas:
    """The running servers, the processor seconds that each took until it was ready, and the port of
    HAProxy before them, which gets `raw`.
    """

    servers: Sequence[Server]
    starts: Sequence[float]
    port: int
    raw: bytes

    def batches(self) -> Reading:
        """The batches that all have run, and their rows."""
        return self._histogram("candor_batch_size_{}", 'lane="predict"')

    def inferred(self) -> Reading:
        """The images that all have predicted, and the seconds of the batch of each."""
        return self._histogram("candor_stage_duration_seconds_{}", 'stage="infer"')

    def _histogram(self, name: str, label: str) -> Reading:
        count, total = (
            sum(server.metric(f"{name.format(what)}{{{label}}}") for server in self.servers)
            for what in ("count", "sum")
        )
        return count, total


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(["check", "plan"]))
@click.option("--model", default="imagenet", show_default=True, type=click.Choice(list(EMBEDDED)))
@click.option(
    "--balance", default="leastconn", show_default=True, type=click.Choice(get_args(Balance))
)
@click.option("--loads", default="0.5,0.8,1.2", show_default=True, help="Of the capacity.")
@click.option("--seconds", default=40.0, show_default=True, type=click.FloatRange(5, 600))
@click.option("--within", default=0.2, show_default=True, help="How far a ratio may be from 1.")
@click.option("--seed", default=0, show_default=True, help="Of arrivals and of the simulation.")
def main(
    sections: tuple[str, ...],
    model: str,
    balance: Balance,
    loads: str,
    seconds: float,
    within: float,
    seed: int,
) -> None:
    """Prints SECTIONS as Markdown, `check` if none is named; fails where a ratio is too far off."""
    load.stop_on_sigterm()
    raise_file_limit()  # HAProxy counts its connections by it
    failed = False
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), model, balance) as replicas:
        law = measured_law(model)
        setup = setup_of(replicas, law, balance)
        click.echo(f"{words(law, setup, replicas)}\n")
        if "check" in sections or not sections:
            shares = [float(share) for share in loads.split(",")]
            runs = [played(replicas, share, seconds, seed) for share in shares]
            rows = [compared(run, law, setup, seconds, seed) for run in runs]
            click.echo(load.table(HEAD, [row.cells() for row in rows]))
            failed = any(row.is_off(within) for row in rows)
            click.echo(f"\n{'Not all' if failed else 'All'} ratios are within {within:.0%}.")
        if "plan" in sections:
            costs, _ = costs_of(law, saturated(replicas).work, lone(replicas))
            click.echo(f"\n{planned(costs, setup, seed)}")
    sys.exit(failed)


@contextmanager
def running(folder: Path, model: str, balance: Balance) -> Iterator[Replicas]:
    """Starts the servers, each on a core, and HAProxy; all are warm."""
    if load.CORES < SERVERS:
        raise click.UsageError(f"{load.CORES} core is too few for {SERVERS} servers with one each")
    load.find("haproxy", "haproxy")
    with ExitStack() as stack:
        servers, starts = [], []
        for number in range(SERVERS):
            (place := folder / str(number)).mkdir()
            # With gRPC's port small networks, too, have a thread for their batches.
            with load.on_cores({number}):
                server = Server(place, bundle=model, workers=1, threads=1, grpc_port=free_port())
                servers.append(stack.enter_context(server))
            pid = server.process.pid
            starts.append(cpu_seconds([pid, *descendants(pid)]))
        if load.CORES > SERVERS:
            stack.enter_context(load.on_cores(range(SERVERS, load.CORES)))
        backends = [f"127.0.0.1:{server.port}" for server in servers]
        port = stack.enter_context(haproxy(folder, backends, balance))
        raw = load.image("/predict", load.jpeg("32×32")).raw()
        replicas = Replicas(servers, starts, port, raw)
        time.sleep(2)  # until HAProxy knows that both are ready
        closed(replicas, SATURATING, WARM_SECONDS)
        yield replicas


def measured_law(model: str) -> Law:
    """The seconds of batches on the core of a server that rests."""
    with load.on_cores({0}), ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(law_of, EMBEDDED[model]).result()


def law_of(bundle: Path) -> Law:
    """The same, in this process, with one thread."""
    engine = Engine(contract.load(bundle), "cpu", threads=1)
    height, width = engine.manifest.input.shape
    random, found = np.random.default_rng(0), dict[int, list[float]]()
    for rows in [each for each in ROWS if each < engine.batch_rows] + [engine.batch_rows]:
        images = random.integers(0, 256, (rows, height, width, 3), np.uint8)
        found[rows], ends = [], time.perf_counter() + LAW_SECONDS
        while len(found[rows]) < 3 or (time.perf_counter() < ends and len(found[rows]) < REPEATS):
            started = time.process_time()
            outputs = engine.predict_quick(images)
            calibrate(outputs.rows(), outputs.logits, engine.manifest)
            found[rows].append(time.process_time() - started)
    return Law(engine.batch_rows, found)


def setup_of(replicas: Replicas, law: Law, balance: Balance) -> Setup:
    """The servers, as the simulation knows them."""
    places = int(replicas.servers[0].metric('candor_queue_limit{lane="predict"}'))
    return Setup(
        servers=len(replicas.servers),
        workers=Settings(workers=1).worker_count,
        places=places,
        most_rows=law.most_rows,
        deadline=DEADLINE_MS / 1000,
        balance=balance,
    )


def closed(replicas: Replicas, connections: int, seconds: float) -> list[Answer]:
    """The answers to requests over so many connections, each busy for `seconds`."""
    answers, ends = list[Answer](), time.monotonic() + seconds
    requests = itertools.takewhile(
        lambda _: time.monotonic() < ends, itertools.repeat(replicas.raw)
    )
    arrivals.run(arrivals.closed_loop(replicas.port, requests, connections, answers.append))
    if any(answer.status != OK for answer in answers):
        raise click.ClickException("a request was not answered with 200 below the queue's limit")
    return answers


def saturated(replicas: Replicas) -> Capacity:
    """The capacity of all servers together."""
    with metered(replicas) as meter:
        answers = closed(replicas, SATURATING, CAPACITY_SECONDS)
    began = min(answer.sent for answer in answers)
    middle = sum(0.5 <= answer.ended - began < CAPACITY_SECONDS - 0.1 for answer in answers)
    return Capacity(middle / (CAPACITY_SECONDS - 0.6), meter.work(len(answers)))


@dataclass
class Meter:
    """Readings before and after a load: batches, their seconds, and processor seconds of all."""

    before: tuple[Reading, Reading, float]
    after: tuple[Reading, Reading, float]

    def work(self, answered: int) -> Work:
        """What the load was, for each of so many answers."""
        batches, inferred, cpu = self.before
        rows = mean_between(batches, self.after[0])
        seconds = mean_between(inferred, self.after[1])
        return Work(rows, seconds, (self.after[2] - cpu) / answered)


@contextmanager
def metered(replicas: Replicas) -> Iterator[Meter]:
    """Reads the counters around the block."""
    processes = [os.getpid(), *descendants(os.getpid())]

    def read() -> tuple[Reading, Reading, float]:
        return replicas.batches(), replicas.inferred(), cpu_seconds(processes)

    meter = Meter(now := read(), now)
    yield meter
    meter.after = read()


def mean_between(before: Reading, after: Reading) -> float:
    """The mean of what a histogram has counted between two readings, each a count and a sum."""
    return (after[1] - before[1]) / (after[0] - before[0])


def lone(replicas: Replicas) -> float:
    """The seconds of a lone request that nothing disturbs, the tenth percentile."""
    answers = closed(replicas, 1, LONE_SECONDS)
    return percentile([answer.milliseconds for answer in answers], 10) / 1000


def costs_of(law: Law, work: Work, lone_seconds: float) -> tuple[Costs, float]:
    """The costs of a request, and the seconds that it takes besides, which hold no core."""
    overhead = max(0.0, work.cpu - law.mean(work.rows) / work.rows)
    beside = max(0.0, lone_seconds - overhead - law.mean(1))
    return Costs(law.drawn(), overhead / 2, overhead / 2), beside


@dataclass(frozen=True)
class Row:
    """One load: the seconds and the share of rejections, as they were and as simulated."""

    share: float
    rate: float
    seconds: Sequence[float]
    simulated: Sequence[float]
    chance: tuple[float, float]  # the p99 of other arrivals of the same rate, in seconds
    rejected: float
    simulated_rejected: float

    @property
    def p99_ratio(self) -> float:
        """The simulated p99, of the real one."""
        return percentile(self.simulated, 99) / percentile(self.seconds, 99)

    @property
    def rejected_ratio(self) -> float | None:
        """The same of the rejections; None where hardly any are."""
        few = max(self.rejected, self.simulated_rejected) < FEWEST_REJECTED
        return None if few else self.simulated_rejected / max(self.rejected, 1e-9)

    def is_off(self, within: float) -> bool:
        """True if a ratio is farther from 1 than that."""
        ratios = [self.p99_ratio, self.rejected_ratio]
        return any(abs(ratio - 1) > within for ratio in ratios if ratio is not None)

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        times = (
            f"{1000 * percentile(values, percent):.1f}"
            for percent in (50, 99)
            for values in (self.seconds, self.simulated)
        )
        ratio = self.rejected_ratio
        return (
            *(f"{self.share:.2f}", f"{self.rate:.1f}", *times),
            "{:.1f} to {:.1f}".format(*(1000 * value for value in self.chance)),
            *(f"{share:.1%}" for share in (self.rejected, self.simulated_rejected)),
            *(f"{self.p99_ratio:.2f}", "–" if ratio is None else f"{ratio:.2f}"),
        )


@dataclass(frozen=True)
class Run:
    """One load as it was: answers, the times meant for their requests and the work, and what was
    measured around it: the capacity before and after, and the seconds of a lone request.
    """

    answers: Sequence[Answer]
    times: Sequence[float]
    work: Work
    before: float
    after: float
    lone: float

    def sent(self) -> list[float]:
        """The times at which requests were sent, from the first on."""
        times = sorted(answer.sent for answer in self.answers)
        return [time - times[0] for time in times]

    def words(self) -> str:
        """A line on how steady the machine was, and how late the generator."""
        first = min(answer.sent for answer in self.answers) - self.times[0]
        late = [answer.sent - first - self.times[answer.number] for answer in self.answers]
        return (
            f"capacity {self.before:.1f}/s before, {self.after:.1f} after, "
            f"{SERVERS / self.work.cpu:.1f} by processor time, {self.work.rows:.1f} rows a batch; "
            f"sent {1000 * percentile(late, 99):.1f} ms late (p99)"
        )


def played(replicas: Replicas, share: float, seconds: float, seed: int) -> Run:
    """Sends `share` of the capacity at random for so many seconds."""
    alone, before = lone(replicas), saturated(replicas)
    times = poisson(share * before.rate, seconds, seed)
    with metered(replicas) as meter:
        answers = arrivals.run(sent(replicas, times))
    work = meter.work(sum(answer.status == OK for answer in answers))
    return Run(answers, times, work, before.rate, saturated(replicas).rate, alone)


def compared(run: Run, law: Law, setup: Setup, seconds: float, seed: int) -> Row:
    """The load beside its simulation, and beside simulations of other arrivals."""
    costs, beside = costs_of(law, run.work, run.lone)
    found, factor = at_pace(run, costs, setup, seed)
    rate = len(run.answers) / seconds
    paced = costs.times(factor)
    others = [p99_of(rate, seconds, paced, setup, seed + 1 + n) for n in range(OTHER_SEEDS)]
    low, high = (float(end) + beside for end in np.percentile(others, (5, 95)))
    click.echo(f"{run.words()}; a core took {factor:.2f} times its own seconds", err=True)
    return Row(
        rate * factor * run.work.cpu / setup.servers,
        rate,
        [answer.milliseconds / 1000 for answer in run.answers if answer.status == OK],
        [value + beside for value in answered(found)],
        (low, high),
        sum(answer.status in REJECTED for answer in run.answers) / len(run.answers),
        sum(one.status != OK for one in found) / len(found),
    )


def at_pace(run: Run, costs: Costs, setup: Setup, seed: int) -> tuple[list[Outcome], float]:
    """The outcomes on cores that take `factor` times as long, and that factor, at least 1: with it
    a batch takes as long in the mean as it did.
    """
    factor, found = 1.0, list[Outcome]()
    for _ in range(PACES):
        simulation = Simulation(costs.times(factor), setup, seed)
        found = simulation.run(run.sent())
        pace = factor
        factor = max(1.0, factor * run.work.batch_seconds / simulation.batch_seconds)
    return found, pace


async def sent(replicas: Replicas, times: Sequence[float]) -> list[Answer]:
    """The answers to requests that are sent by the clock, however long one takes."""
    answers = list[Answer]()
    async with arrivals.pool(replicas.port, CONNECTIONS, answers.append) as pool:
        loop = asyncio.get_running_loop()
        began = loop.time() + 0.1
        for number, offset in enumerate(times):
            await asyncio.sleep(max(0.0, began + offset - loop.time()))
            await pool.send(number, replicas.raw)
        await pool.drained()
    lost = len(times) - sum(answer.status != 0 for answer in answers)
    if lost:
        raise click.ClickException(f"{lost} of {len(times)} requests were not answered")
    return answers


def answered(outcomes: Sequence[Outcome]) -> list[float]:
    """The seconds of those that were answered."""
    return [one.seconds for one in outcomes if one.status == OK]


def p99_of(rate: float, seconds: float, costs: Costs, setup: Setup, seed: int) -> float:
    """The simulated p99 of Poisson arrivals, in seconds."""
    found = simulate(poisson(rate, seconds, seed), costs, setup, seed)
    return percentile(answered(found), 99)


def planned(costs: Costs, setup: Setup, seed: int) -> str:
    """The highest load at which the p99 is so many times a lone request's, by replicas."""
    spent = costs.before + costs.after
    each, alone = spent + mean_of(costs, setup.most_rows), spent + mean_of(costs, 1)
    columns = [(balance, times) for times in PATIENCE for balance in get_args(Balance)]

    def cell(servers: int, balance: Balance, times: int) -> str:
        this = replace(setup, servers=servers, balance=balance)
        return f"{highest(costs, this, each, times * alone, seed):.2f}"

    rows = [(servers, *(cell(servers, *column) for column in columns)) for servers in PLANNED]
    header = ("replicas", *(f"p99 of {times} times, {balance}" for balance, times in columns))
    return (
        f"The highest load, as a share of the capacity of {1 / each:.1f} requests/s of each, at "
        f"which the simulated p99 is at most so many times the {1000 * alone:.1f} ms of a lone "
        f"request:\n\n{load.table(header, rows)}"
    )


def mean_of(costs: Costs, rows: int) -> float:
    """The seconds of a row in a batch of so many."""
    random = np.random.default_rng(0)
    return statistics.fmean(costs.batch(rows, random) for _ in range(100)) / rows


def highest(costs: Costs, setup: Setup, each: float, most_seconds: float, seed: int) -> float:
    """The highest of SHARES at which the p99 is at most so many seconds; 0 if none is.

    `each` is what a request takes of a replica.
    """

    def too_long(share: float) -> bool:
        rate = share * setup.servers / each
        return p99_of(rate, PLANNED_REQUESTS / rate, costs, setup, seed) > most_seconds

    return (0.0, *SHARES)[bisect_left(SHARES, True, key=too_long)]


def words(law: Law, setup: Setup, replicas: Replicas) -> str:
    """Sentences on what was measured besides the loads."""
    ready = " and ".join(f"{server.seconds_to_ready:.1f}" for server in replicas.servers)
    spent = " and ".join(f"{seconds:.1f}" for seconds in replicas.starts)
    of = ", ".join(f"{1000 * law.mean(rows):.1f} ms of {rows}" for rows in law.seconds)
    return (
        f"Ready {ready} s after the start, which took {spent} s of a core. A batch takes {of}; "
        f"the queue of each server has {setup.places} places."
    )


if __name__ == "__main__":
    main()
