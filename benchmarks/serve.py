"""The real service under load, beside the in-process limit: throughput and latency, explaining beside predicting, overload, memory.

Every section starts `python -m service serve` with default settings on a free port of loopback, alone. wrk makes the closed-loop load,
h2load the overload, support/arrivals.py the rest. Load and server share the machine: the ratios say more than the figures.
"""

import itertools
import json
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from support import arrivals, load, rates
from support.arrivals import Answer, percentile
from support.images import COLOURS, draw, encode
from support.load import Reading, Request, Server, Wrk, table
from support.rates import Wave

CONNECTIONS, SHARES = (1, 16, 64), (0.0, 0.1, 0.5)
WARM_SECONDS = 2
OVER = 4  # times the capacity
POOL = 2_048  # connections of the overload
GOOD, GATHERINGS = 31, 20
WORKING, FIRST = (
    16,
    20_000,
)  # connections of the memory section, and the requests after which memory is first read
KEPT = 1_000  # requests over the same connections; new ones reach every process
BAD_SHARE, EXPLAINED_SHARE, EXPLANATION_MS = 0.05, 0.1, 2_000
IMAGES = 200
OK, WRONG, REFUSED = 200, range(400, 500), (429, 503, 504)


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    seconds: float
    rounds: int
    method: str
    bundle: Path | None
    requests: int


@dataclass(frozen=True)
class Cell:
    """One line of the table of load."""

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
    help="Another bundle than the embedded one.",
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
    click.echo(load.machine())
    for section in sections or tuple(SECTIONS):
        click.echo(f"\n{SECTIONS[section](plan)}")


@contextmanager
def serving(plan: Plan) -> Iterator[tuple[Server, Wrk]]:
    """The service, warm, and wrk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrk, small = Wrk(folder), prediction("32×32")
        with load.candor_running(folder, plan.bundle, small) as server:
            for request in (small, explanation("32×32", plan.method)):
                wrk.drive(server.port, [(request, 1)], 16, WARM_SECONDS)
            yield server, wrk


def prediction(size: str) -> Request:
    """One image, predicted."""
    return load.image("/predict", load.jpeg(size))


def explanation(size: str, method: str) -> Request:
    """One image, explained."""
    return load.image(f"/explain?method={method}", load.jpeg(size))


def load_section(plan: Plan) -> str:
    """Throughput and latency by connections and by the share of explanations."""
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
        "requests/s",
        "of the limit",
        "p50 ms",
        "p99 ms",
        "errors",
    )
    rows = [
        line(cell, load.median(found), statistics.median(limits[cell.size]))
        for cell, found in readings.items()
    ]
    return f"## Load\n\n{load.yardstick(limits)} Explained: {plan.method}.\n\n{table(header, rows)}"


def mix(cell: Cell, method: str) -> list[tuple[Request, float]]:
    """Predictions, and as many explanations as the cell says."""
    return [(prediction(cell.size), 1 - cell.share), (explanation(cell.size, method), cell.share)]


def line(cell: Cell, reading: Reading, limit: float) -> tuple[object, ...]:
    """The cell's line."""
    share = f"{reading.rate / limit:.2f}" if cell.share == 0 else ""
    latencies = (f"{reading.p50:.2f}", f"{reading.p99:.2f}")
    return (
        cell.size,
        cell.connections,
        f"{cell.share:.0%}",
        f"{reading.rate:.0f}",
        share,
        *latencies,
        reading.errors,
    )


def explaining_section(plan: Plan) -> str:
    """What predictions wait when others explain without pause."""
    dear = [(explanation("32×32", "integrated_gradients"), 1.0)]
    alone: list[Reading] = []
    beside: list[Reading] = []
    maps: list[Reading] = []
    with serving(plan) as (server, wrk):
        for _ in range(plan.rounds):
            alone.append(wrk.drive(server.port, [(prediction("32×32"), 1)], 16, plan.seconds))
            with wrk.driving(server.port, dear, 2, plan.seconds + 1) as explaining:
                beside.append(wrk.drive(server.port, [(prediction("32×32"), 1)], 16, plan.seconds))
                maps.append(load.parse(explaining.communicate(timeout=60)[0]))
    quiet, disturbed, explained = load.median(alone), load.median(beside), load.median(maps)
    header = ("predictions at 16 connections", "requests/s", "p50 ms", "p99 ms", "errors")
    rows = [
        (name, f"{reading.rate:.0f}", f"{reading.p50:.2f}", f"{reading.p99:.2f}", reading.errors)
        for name, reading in (
            ("alone", quiet),
            ("beside two clients that ask for integrated_gradients without pause", disturbed),
        )
    ]
    ratio = f"The p99 is {disturbed.p99 / quiet.p99:.2f} times the one without them."
    theirs = f"The two clients got {explained.rate:.1f} maps/s, p50 {explained.p50:.0f} ms, with {explained.errors} errors."
    return f"## Explaining beside predicting\n\n{table(header, rows)}\n\n{ratio} {theirs}"


def overload_section(plan: Plan) -> str:
    """Four times the capacity, and one bad image among good ones."""
    half = load.CORES // 2
    if not half:
        raise click.UsageError(
            "the section `overload` needs two cores or more: one for the service, one for the generator"
        )
    with serving(plan) as (server, wrk):
        together, gathered = overloads(plan, server, wrk), gathering(server)
    with (
        load.on_cores(range(half)),
        serving(plan) as (server, wrk),
        load.on_cores(range(half, load.CORES)),
    ):
        apart = overloads(plan, server, wrk)
    header = ("round", "capacity requests/s", f"of {POOL:,} connections", "sent requests/s")
    header += (
        *(str(status) for status in (OK, *REFUSED)),
        "other",
        "goodput / capacity",
        f"/ that of {POOL:,} connections",
    )
    header += (
        "of the server's processor time",
        "200 p99 ms",
        "refusals p99 ms",
        "slowest refusal ms",
    )
    how = (
        f"{POOL:,} connections send predictions of 32×32 at {OVER} times the capacity (64 connections, measured just before) for "
        f"{plan.seconds:g} s, after they have sent as many as the capacity, which tells what they get at most. Times count from when a "
        "request was sent. On the same cores goodput by the clock lacks what the generator takes; of the processor time that the server had "
        "itself, the share is told that its answers take at the capacity."
    )
    on = f"The service on {half} of the {load.CORES} cores, the generator on the others"
    tables = f"On the same cores:\n\n{table(header, together)}\n\n{on}:\n\n{table(header, apart)}"
    return f"## Overload\n\n{how}\n\n{tables}\n\n{gathered}"


def overloads(plan: Plan, server: Server, wrk: Wrk) -> list[tuple[object, ...]]:
    """A line a round."""
    asked, rows = prediction("32×32"), []
    with tempfile.TemporaryDirectory() as name:
        for number in range(1, plan.rounds + 1):
            reading, cost = load.driven(wrk, server, [(asked, 1)], 64, plan.seconds)
            even = rates.drive(
                server.port, asked, reading.rate, plan.seconds, POOL, Path(name)
            ).per_second(OK)
            before = load.cpu_seconds(load.family(server.pid))
            wave = rates.drive(
                server.port, asked, OVER * reading.rate, plan.seconds, POOL, Path(name)
            )
            useful = (
                wave.statuses()[OK] * cost / (load.cpu_seconds(load.family(server.pid)) - before)
            )
            rows.append(
                (
                    number,
                    f"{reading.rate:.0f}",
                    f"{even:.0f}",
                    *overloaded(wave, (reading.rate, even), useful),
                )
            )
    return rows


def overloaded(wave: Wave, capacities: Sequence[float], useful: float) -> tuple[object, ...]:
    """One round's line, the goodput beside each of `capacities`; `useful` is the share of the server's processor time for answers."""
    statuses, sent = wave.statuses(), wave.sent()
    refusals = [one.milliseconds for one in sent if one.status in REFUSED]
    served = [one.milliseconds for one in sent if one.status == OK]
    return (
        f"{len(sent) / wave.seconds:.0f}",
        *(statuses[status] for status in (OK, *REFUSED)),
        sum(count for status, count in statuses.items() if status not in (OK, *REFUSED)),
        *(f"{wave.per_second(OK) / capacity:.2f}" for capacity in capacities),
        f"{useful:.2f}",
        f"{percentile(served, 99):.1f}",
        f"{percentile(refusals, 99):.1f}",
        f"{max(refusals, default=float('nan')):.1f}",
    )


def gathering(server: Server) -> str:
    """Does one bad image among good ones, all at the same moment, change their answers? As a sentence."""
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
    same, refused, slowest = 0, Counter[int](), 0.0
    for _ in range(GATHERINGS):
        answers = arrivals.run(arrivals.together(server.port, raws))
        good = [answer for answer in answers if answer.number < GOOD]
        same += sum(
            answer.status == OK and json.loads(answer.body)["index"] == expected[answer.number]
            for answer in good
        )
        refused.update(answer.status for answer in answers if answer.number == GOOD)
        slowest = max([slowest, *(answer.milliseconds for answer in good)])
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(refused.items()))
    return (
        f"One truncated image among {GOOD} good ones at the same moment, {GATHERINGS} times: {same} of {GOOD * GATHERINGS} good ones were "
        f"answered 200 with the class that they have alone, the slowest after {slowest:.1f} ms; the bad ones were answered {statuses}."
    )


def memory_section(plan: Plan) -> str:
    """Resident memory over many mixed requests."""
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
    rows = [(kind, sum(found.values()), tally(found)) for kind, found in statuses.items()]
    how = f"{plan.requests:,} requests over {WORKING} connections: 9 of 10 predictions, 1 of 10 explanations of {len(methods)} methods."
    growth = f"Grown by {sum(after) - sum(before):.0f} MiB ({sum(after) / sum(before) - 1:+.1%}) after the first {first:,}."
    read = [
        ("ready", each(started)),
        (f"after {first:,} requests", each(before)),
        (f"after {plan.requests:,} requests", each(after)),
    ]
    images = table(("images", "requests", "statuses"), rows)
    return f"## Memory\n\n{how}\n\n{images}\n\n{table(('when', 'resident MiB of the workers'), read)}\n\n{growth}"


def worked(
    server: Server, requests: Iterator[tuple[str, Request]], statuses: Mapping[str, Counter[int]]
) -> list[float]:
    """Sends `requests`, counts their answers by the kind of image, and reads the memory afterwards."""
    while some := list(itertools.islice(requests, KEPT)):

        def count(answer: Answer, some: Sequence[tuple[str, Request]] = some) -> None:
            statuses[some[answer.number][0]][answer.status] += 1

        raws = (request.raw() for _, request in some)
        arrivals.run(arrivals.closed_loop(server.port, raws, WORKING, count))
    return resident_mib(server)


def mixed(methods: Sequence[str]) -> Iterator[tuple[str, Request]]:
    """Requests without end, always the same, each with the kind of its image: "good" or "bad"."""
    chance = random.Random(0)  # noqa: S311 - no secret
    good, bad = various(), broken()
    while True:
        kind = "bad" if chance.random() < BAD_SHARE else "good"
        form, body = chance.choice(bad if kind == "bad" else good)
        path = "/predict"
        if chance.random() < EXPLAINED_SHARE:
            path = f"/explain?method={chance.choice(methods)}&deadline_ms={EXPLANATION_MS}&map={chance.choice(('overlay', 'array', 'both'))}"
        yield kind, load.image(path, body, form)


def various() -> list[tuple[str, bytes]]:
    """Images of many sizes in every format that is taken."""
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
    """Bodies that are no image, or half of one, or another one than they say."""
    halves = [(kind, body[: len(body) // 2]) for kind, body in various()[:20]]
    return [
        *halves,
        ("jpeg", b""),
        ("jpeg", b"not an image"),
        ("png", b"GIF89a" + bytes(64)),
        ("tiff", b"II*\0" + bytes(64)),
    ]


def resident_mib(server: Server) -> list[float]:
    """The resident memory of every process of the server that has loaded onnxruntime, in MiB (Linux)."""
    processes = [Path(f"/proc/{pid}") for pid in sorted(load.family(server.pid))]
    return [
        resident_kib(process) / 1024
        for process in processes
        if "onnxruntime" in (process / "maps").read_text()
    ]


def resident_kib(process: Path) -> int:
    """Its VmRSS."""
    return next(
        int(line.split()[1])
        for line in (process / "status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )


def each(values: Sequence[float]) -> str:
    """The sum, and what it is made of."""
    return f"{sum(values):.0f} ({' + '.join(f'{value:.0f}' for value in values)})"


def tally(statuses: Mapping[int, int]) -> str:
    """How many of each status; 0 is a lost connection."""
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))


SECTIONS: Mapping[str, Callable[[Plan], str]] = {
    "load": load_section,
    "explaining": explaining_section,
    "overload": overload_section,
    "memory": memory_section,
}


if __name__ == "__main__":
    main()
