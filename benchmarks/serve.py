"""The real service under load, beside the in-process limit.

Sections: throughput and latency, explaining beside predicting, overload, memory. Each starts
`python -m service serve` with default settings on a free port of loopback, alone. wrk makes the
closed-loop load, h2load the overload, support/arrivals.py the rest. Load and server share the
machine, so the ratios matter more than the figures.
"""

import itertools
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from service.workers.host import cpu_seconds
from service.workers.memory import TRIM_SECONDS
from support import arrivals, load, rates
from support.arrivals import Answer, percentile
from support.images import COLOURS, draw, encode
from support.load import Reading, Request, Server, Wrk, resident_mib, table
from support.rates import Wave

CONNECTIONS, SHARES = (1, 16, 64), (0.0, 0.1, 0.5)
WARM_SECONDS = 2
OVERLOAD = 4  # times the capacity
POOL = 2_048  # connections of the overload
GOOD, GATHERINGS = 31, 20
MEMORY_CONNECTIONS = 16
FIRST = 20_000  # requests before memory is first read
KEPT = 1_000  # requests over the same connections; new connections reach every worker
BAD_SHARE, EXPLAINED_SHARE, EXPLANATION_MS = 0.05, 0.1, 2_000
IMAGES = 200
OK, REJECTED = 200, (429, 503, 504)


@dataclass(frozen=True)
class Plan:
    """The options of the command line."""

    seconds: float
    rounds: int
    method: str
    bundle: Path | None
    requests: int


@dataclass(frozen=True)
class Cell:
    """One row of the table of load."""

    size: str
    connections: int
    share: float


@click.command()
@click.argument(
    "sections", nargs=-1, type=click.Choice(["load", "explaining", "overload", "memory"])
)
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(1, 60),
    help="Of one measurement.",
)
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1, 20),
    help="Interleaved; medians are printed.",
)
@click.option(
    "--method", default="grad_cam", show_default=True, help="The explanation in the section `load`."
)
@click.option(
    "--requests",
    default=100_000,
    show_default=True,
    type=click.IntRange(1_000, 10_000_000),
    help="In the section `memory`.",
)
@click.option(
    "--model",
    "bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The bundle; the embedded one if not given.",
)
def main(
    sections: tuple[str, ...],
    seconds: float,
    rounds: int,
    method: str,
    requests: int,
    bundle: Path | None,
) -> None:
    """Prints SECTIONS, all if none is named, as Markdown."""
    load.stop_on_sigterm()
    plan = Plan(seconds, rounds, method, bundle, requests)
    for section in sections or tuple(SECTIONS):
        click.echo(f"\n{SECTIONS[section](plan)}")


@contextmanager
def serving(plan: Plan) -> Iterator[tuple[Server, Wrk]]:
    """The warm service, and wrk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrk, small = Wrk(folder), prediction("32×32")
        with load.candor_running(folder, plan.bundle, small) as server:
            for request in (small, explanation("32×32", plan.method)):
                wrk.drive(server.port, [(request, 1)], 16, WARM_SECONDS)
            yield server, wrk


def prediction(size: str) -> Request:
    """A request for the prediction of one image."""
    return load.image("/predict", load.jpeg(size))


def explanation(size: str, method: str) -> Request:
    """A request for the explanation of one image."""
    return load.image(f"/explain?method={method}", load.jpeg(size))


def load_section(plan: Plan) -> str:
    """Measures throughput and latency by connections and by the share of explanations."""
    cells = [Cell(*values) for values in itertools.product(load.SIZES, CONNECTIONS, SHARES)]
    readings: dict[Cell, list[Reading]] = {cell: [] for cell in cells}
    limits: dict[str, list[float]] = {size: [] for size in load.SIZES}
    with serving(plan) as (server, wrk):
        for _ in range(plan.rounds):
            for size, rates in limits.items():  # the server rests meanwhile
                rates.append(load.in_process_limit(plan.bundle, load.jpeg(size), plan.seconds))
            for cell in cells:
                readings[cell].append(
                    wrk.drive(server.port, mix(cell, plan.method), cell.connections, plan.seconds)
                )
    header = (
        "JPEG",
        "connections",
        "explained",
        "of the limit",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "errors",
    )
    rows = [
        line(cell, load.median(rounds), statistics.median(limits[cell.size]))
        for cell, rounds in readings.items()
    ]
    return f"## Load\n\n{load.yardstick(limits)} Explained: {plan.method}.\n\n{table(header, rows)}"


def mix(cell: Cell, method: str) -> list[tuple[Request, float]]:
    """Predictions, with the cell's share of explanations."""
    return [(prediction(cell.size), 1 - cell.share), (explanation(cell.size, method), cell.share)]


def line(cell: Cell, reading: Reading, limit: float) -> tuple[object, ...]:
    """The row of one cell."""
    share = f"{reading.rate / limit:.2f}" if cell.share == 0 else ""
    latencies = (f"{reading.p50:.2f}", f"{reading.p99:.2f}")
    return (
        cell.size,
        cell.connections,
        f"{cell.share:.0%}",
        share,
        f"{reading.rate:.0f}",
        *latencies,
        reading.errors,
    )


def explaining_section(plan: Plan) -> str:
    """Measures predictions beside explanations without pause."""
    expensive = [(explanation("32×32", "integrated_gradients"), 1.0)]
    alone: list[Reading] = []
    beside: list[Reading] = []
    maps: list[Reading] = []
    with serving(plan) as (server, wrk):
        for _ in range(plan.rounds):
            alone.append(wrk.drive(server.port, [(prediction("32×32"), 1)], 16, plan.seconds))
            with wrk.driving(server.port, expensive, 2, plan.seconds + 1) as explaining:
                beside.append(wrk.drive(server.port, [(prediction("32×32"), 1)], 16, plan.seconds))
                maps.append(load.parse(explaining.communicate(timeout=60)[0]))
    quiet, disturbed, explained = load.median(alone), load.median(beside), load.median(maps)
    ratios = ("requests/s, ratio", "p99, ratio")
    header = (
        "predictions at 16 connections",
        *ratios,
        *("requests/s", "p50 ms", "p99 ms", "errors"),
    )
    rows = [
        (
            name,
            *(f"{ratio:.2f}" for ratio in (reading.rate / quiet.rate, reading.p99 / quiet.p99)),
            f"{reading.rate:.0f}",
            *(f"{latency:.2f}" for latency in (reading.p50, reading.p99)),
            reading.errors,
        )
        for name, reading in (
            ("alone", quiet),
            ("beside two clients that request integrated_gradients without pause", disturbed),
        )
    ]
    theirs = (
        f"The two clients got {explained.rate:.1f} maps/s, p50 {explained.p50:.0f} ms,"
        f" with {explained.errors} errors."
    )
    return f"## Explaining beside predicting\n\n{table(header, rows)}\n\n{theirs}"


def overload_section(plan: Plan) -> str:
    """Measures four times the capacity, and one bad image among good ones."""
    half = load.CORES // 2
    if not half:
        raise click.UsageError(
            f"{load.CORES} core is too few for the section `overload`: it needs one for the service"
            " and one for the generator"
        )
    with serving(plan) as (server, wrk):
        together, gathered = overloads(plan, server, wrk), gathering(server)
    with (
        load.on_cores(range(half)),
        serving(plan) as (server, wrk),
        load.on_cores(range(half, load.CORES)),
    ):
        apart = overloads(plan, server, wrk)
    header = (
        "round",
        "goodput / capacity",
        f"/ that of {POOL:,} connections",
        "of the server's processor time",
        "capacity requests/s",
        f"of {POOL:,} connections",
        "sent requests/s",
        *(str(status) for status in (OK, *REJECTED)),
        "other",
        "200 p99 ms",
        "rejections p99 ms",
        "slowest rejection ms",
    )
    how = (
        f"The capacity is that of 64 connections, measured just before. {POOL:,} connections first"
        " send as many predictions of 32×32 as the capacity, which gives the most that they get,"
        f" then {OVERLOAD} times as many for {plan.seconds:g} s. Times count from the sending of a"
        " request. On the same cores the generator takes a part of the goodput by the clock. The"
        " share of the server's processor time is the time that its answers cost at the capacity."
    )
    on = f"The service on {half} of the {load.CORES} cores, the generator on the others"
    tables = f"On the same cores:\n\n{table(header, together)}\n\n{on}:\n\n{table(header, apart)}"
    return f"## Overload\n\n{how}\n\n{tables}\n\n{gathered}"


def overloads(plan: Plan, server: Server, wrk: Wrk) -> list[tuple[object, ...]]:
    """A row for each round."""
    request, rows = prediction("32×32"), list[tuple[object, ...]]()
    with tempfile.TemporaryDirectory() as name:
        for number in range(1, plan.rounds + 1):
            reading, cost = load.driven(wrk, server, [(request, 1)], 64, plan.seconds)
            even = rates.drive(
                server.port, request, reading.rate, plan.seconds, POOL, Path(name)
            ).per_second(OK)
            before = cpu_seconds(load.family(server.pid))
            wave = rates.drive(
                server.port, request, OVERLOAD * reading.rate, plan.seconds, POOL, Path(name)
            )
            useful = wave.statuses()[OK] * cost / (cpu_seconds(load.family(server.pid)) - before)
            rows.append(
                (
                    number,
                    *(f"{wave.per_second(OK) / most:.2f}" for most in (reading.rate, even)),
                    f"{useful:.2f}",
                    f"{reading.rate:.0f}",
                    f"{even:.0f}",
                    *overloaded(wave),
                )
            )
    return rows


def overloaded(wave: Wave) -> tuple[object, ...]:
    """What was sent in one round, and how it was answered."""
    statuses, sent = wave.statuses(), wave.sent()
    rejections = [one.milliseconds for one in sent if one.status in REJECTED]
    served = [one.milliseconds for one in sent if one.status == OK]
    return (
        f"{len(sent) / wave.seconds:.0f}",
        *(statuses[status] for status in (OK, *REJECTED)),
        sum(count for status, count in statuses.items() if status not in (OK, *REJECTED)),
        f"{percentile(served, 99):.1f}",
        f"{percentile(rejections, 99):.1f}",
        f"{max(rejections, default=float('nan')):.1f}",
    )


def gathering(server: Server) -> str:
    """A sentence on one bad image among good ones, all sent at the same moment."""
    bodies = [
        encode(draw(colour, 32, seed), "JPEG")
        for seed, colour in zip(range(GOOD), itertools.cycle(COLOURS), strict=False)
    ]
    expected = [
        json.loads(load.ask(server.port, "/predict", body, {"Content-Type": "image/jpeg"})[1])[
            "index"
        ]
        for body in bodies
    ]
    raws = [
        load.image("/predict", body).raw() for body in [*bodies, bodies[0][: len(bodies[0]) // 2]]
    ]
    same, rejected, slowest = 0, Counter[int](), 0.0
    for _ in range(GATHERINGS):
        answers = arrivals.run(arrivals.together(server.port, raws))
        good = [answer for answer in answers if answer.number < GOOD]
        same += sum(
            answer.status == OK and json.loads(answer.body)["index"] == expected[answer.number]
            for answer in good
        )
        rejected.update(answer.status for answer in answers if answer.number == GOOD)
        slowest = max([slowest, *(answer.milliseconds for answer in good)])
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(rejected.items()))
    return (
        f"One truncated image among {GOOD} good ones at the same moment, {GATHERINGS} times:"
        f" {same} of {GOOD * GATHERINGS} good ones got 200 with the class that they get alone, the"
        f" slowest after {slowest:.1f} ms; the bad ones got {statuses}."
    )


def memory_section(plan: Plan) -> str:
    """Measures resident memory over many mixed requests."""
    statuses: dict[str, Counter[int]] = {"good": Counter(), "bad": Counter()}
    first = min(FIRST, plan.requests // 5)
    with (
        tempfile.TemporaryDirectory() as name,
        load.candor_running(Path(name), plan.bundle, prediction("32×32")) as server,
    ):
        started = resident_mib(server)
        methods = [
            entry["name"] for entry in json.loads(load.ask(server.port, "/methods")[1])["methods"]
        ]
        source = itertools.islice(mixed(methods), plan.requests)
        before, after = (
            worked(server, itertools.islice(source, count), statuses)
            for count in (first, plan.requests - first)
        )
    rows = [(kind, sum(counts.values()), tally(counts)) for kind, counts in statuses.items()]
    how = (
        f"{plan.requests:,} requests over {MEMORY_CONNECTIONS} connections: 9 of 10 predictions,"
        f" 1 of 10 explanations of {len(methods)} methods."
    )
    growth = (
        f"Grown by {sum(after) - sum(before):.0f} MiB ({sum(after) / sum(before) - 1:+.1%})"
        f" after the first {first:,}."
    )
    read = [
        ("ready", each(started)),
        (f"after {first:,} requests", each(before)),
        (f"after {plan.requests:,} requests", each(after)),
    ]
    images = table(("images", "requests", "statuses"), rows)
    memory = table(("when", "resident MiB of the workers"), read)
    return f"## Memory\n\n{how}\n\n{images}\n\n{memory}\n\n{growth}"


def worked(
    server: Server, requests: Iterator[tuple[str, Request]], statuses: Mapping[str, Counter[int]]
) -> list[float]:
    """Sends `requests`, counts answers by the kind of image, and reads the memory at rest."""
    while some := list(itertools.islice(requests, KEPT)):

        def count(answer: Answer, some: Sequence[tuple[str, Request]] = some) -> None:
            statuses[some[answer.number][0]][answer.status] += 1

        raws = (request.raw() for _, request in some)
        arrivals.run(arrivals.closed_loop(server.port, raws, MEMORY_CONNECTIONS, count))
    time.sleep(TRIM_SECONDS + 2)  # what is free goes back to the system
    return resident_mib(server)


def mixed(methods: Sequence[str]) -> Iterator[tuple[str, Request]]:
    """An endless, fixed series of requests, each with the kind of its image: "good" or "bad"."""
    chance = random.Random(0)  # noqa: S311 - no secret
    good, bad = various(), broken()
    while True:
        kind = "bad" if chance.random() < BAD_SHARE else "good"
        form, body = chance.choice(bad if kind == "bad" else good)
        path = "/predict"
        if chance.random() < EXPLAINED_SHARE:
            method, form_of_map = (
                chance.choice(methods),
                chance.choice(("overlay", "array", "both")),
            )
            path = f"/explain?method={method}&deadline_ms={EXPLANATION_MS}&map={form_of_map}"
        yield kind, load.image(path, body, form)


def various() -> list[tuple[str, bytes]]:
    """Images of many sizes in every accepted format."""
    chance = random.Random(1)  # noqa: S311 - no secret
    return [
        (kind, encode(draw(colour, chance.randint(8, 480), seed, chance.randint(8, 640)), kind))
        for seed, kind, colour in zip(
            range(IMAGES),
            itertools.cycle(("jpeg", "png", "webp", "jpeg")),
            itertools.cycle(COLOURS),
            strict=False,
        )
    ]


def broken() -> list[tuple[str, bytes]]:
    """Bodies that are no image, half of one, or of another format than declared."""
    halves = [(kind, body[: len(body) // 2]) for kind, body in various()[:20]]
    return [
        *halves,
        ("jpeg", b""),
        ("jpeg", b"not an image"),
        ("png", b"GIF89a" + bytes(64)),
        ("tiff", b"II*\0" + bytes(64)),
    ]


def each(values: Sequence[float]) -> str:
    """The sum with its terms."""
    return f"{sum(values):.0f} ({' + '.join(f'{value:.0f}' for value in values)})"


def tally(statuses: Mapping[int, int]) -> str:
    """The count of each status; 0 is a lost connection."""
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))


SECTIONS: Mapping[str, Callable[[Plan], str]] = {
    "load": load_section,
    "explaining": explaining_section,
    "overload": overload_section,
    "memory": memory_section,
}


if __name__ == "__main__":
    main()
