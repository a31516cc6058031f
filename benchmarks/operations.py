"""The costs of metrics, the access log, traces, BentoML's layers and scrapes; and losses at a stop.

Every section starts real servers on free ports of loopback. Load and server share the machine, so
the ratios matter more than the figures.
"""

import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import click

from service.bundle import folder
from service.errors import TooManyRequests
from service.runtime.engine import Engine
from service.schedule.pipeline import MOST, Pipeline
from service.settings import EMBEDDED_BUNDLE, Settings
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import TracingMiddleware
from service.workers.connections import Connections
from service.workers.drain import WINDOW_SECONDS, Drain
from service.workers.protocol import HEAD_END
from support import arrivals, load, stopping
from support.collector import Collector
from support.load import Reading, Request, Server, Wrk, table
from support.servers import ROOT, environment, free_port
from support.servers import Server as TestServer
from support.shelves import api_of

CONNECTIONS = 16
REJECTIONS = 20_000
SCRAPES, PAUSE_SECONDS = 50, 0.1
WARM_SECONDS = 2
SMALL = load.image("/predict", load.jpeg("32×32"))
BEHIND = "/behind/predict"  # where benchmarks.layered mounts the application
EXPOSITIONS = {
    "Candor": "service.app:Candor",
    "prometheus_client's MultiProcessCollector": "benchmarks.collected:Candor",
}
COUNTED_PATHS = (  # so that the text has their series
    "/explain?method=grad_cam",
    "/explain?method=integrated_gradients&steps=4",
    "/nothing",
)


@click.command()
@click.argument(
    "sections",
    nargs=-1,
    type=click.Choice(["metrics", "observed", "layers", "scrapes", "stopping"]),
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=click.FloatRange(1, 60),
    help="Duration of one measurement.",
)
@click.option(
    "--rounds",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100),
    help="Rounds of each section.",
)
def main(sections: tuple[str, ...], seconds: float, rounds: int) -> None:
    """Prints SECTIONS, all if none is named, as Markdown."""
    load.stop_on_sigterm()
    for section in sections or tuple(SECTIONS):
        click.echo(f"\n{SECTIONS[section](seconds, rounds)}")


@contextmanager
def serving(
    folder: Path, service: str, warm: Request = SMALL, **settings: object
) -> Iterator[Server]:
    """Serves `service`, a module and its class, with default settings apart from `settings`."""
    port = free_port()
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        service,
        "--working-dir",
        str(ROOT),
        "--host",
        load.HOST,
        "--port",
        str(port),
    ]
    with load.running(
        command, environment(folder / "home", **settings), ROOT, folder / "server.log", port, warm
    ) as server:
        yield server


@dataclass(frozen=True)
class Variant:
    """A way to serve: the module and class of the service, the path to ask, and its settings."""

    name: str
    service: str = "service.app:Candor"
    path: str = "/predict"
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def request(self) -> Request:
        """A prediction."""
        return replace(SMALL, path=self.path)


METRICS = (
    Variant("metrics that count nothing", "benchmarks.silent:Candor"),
    Variant("as it is"),
    Variant("an access log", settings={"access_log": "true"}),
)
LAYERS = (
    Variant("Candor's application before BentoML's"),
    Variant(
        "behind BentoML's, nothing traced, logged or counted", "benchmarks.layered:Lean", BEHIND
    ),
    Variant("behind BentoML's as it comes", "benchmarks.layered:AsItComes", BEHIND),
)


def metrics_section(seconds: float, rounds: int) -> str:
    """Compares metrics, metrics that count nothing, and an access log, in turn."""
    return f"## What metrics cost\n\n{compared(METRICS, CONNECTIONS, seconds, rounds)}"


def observed_section(seconds: float, rounds: int) -> str:
    """Compares no log and no traces, either, and both, in turn; and a rejection with each."""
    log: dict[str, object] = {"access_log": "true", "log_format": "json"}
    with Collector(keep=False) as collector:
        traces: dict[str, object] = {"otlp_endpoint": collector.url}
        variants = (
            Variant("neither"),
            Variant("an access log", settings=log),
            Variant("traces", settings=traces),
            Variant("both", settings=log | traces),
        )
        usual = compared(variants, CONNECTIONS, seconds, rounds)
        with tempfile.TemporaryFile("w") as file:
            logs.configure("json")
            logging.getLogger("candor").handlers = [handler := logging.StreamHandler(file)]
            handler.setFormatter(logs.JsonFormatter())
            rows = [(one.name, f"{_rejection(one):.1f}") for one in variants]
        collector.shutdown()
    rejections = table(("", "microseconds of processor time a rejection before a task"), rows)
    return f"## What an access log and traces cost\n\n{usual}\n\n{rejections}"


class _Full(Pipeline):
    """A pipeline with a queue that is always full."""

    def rejection(self, ahead: int = 0) -> TooManyRequests | None:
        return super().rejection(ahead + MOST)


def _rejection(variant: Variant) -> float:
    """The microseconds of an early rejection, without what the server does to read and write."""
    bundle = folder.load(EMBEDDED_BUNDLE)
    chosen = Settings(access_log="access_log" in variant.settings)
    metrics = Metrics()
    pipeline = _Full(Engine(bundle, "cpu", 1), chosen, metrics)
    drain = Drain(1.0, metrics.requests_in_flight, metrics.ready, Connections())
    api = api_of(pipeline, bundle, chosen, drain)
    if endpoint := variant.settings.get("otlp_endpoint"):
        api.observation.tracing = TracingMiddleware(api.app, str(endpoint))
    raw = SMALL.raw()
    head = api.rejection.head_of(raw[: raw.index(HEAD_END) + len(HEAD_END)], None)
    assert head is not None
    common: list[tuple[bytes, bytes]] = []
    for _ in range(REJECTIONS):  # warms
        api.rejection.response(head, common)
    started = time.thread_time()
    for _ in range(REJECTIONS):
        api.rejection.response(head, common)
    spent = time.thread_time() - started
    pipeline.close()
    if api.observation.tracing is not None:
        api.observation.tracing.close()
    return 1e6 * spent / REJECTIONS


def layers_section(seconds: float, rounds: int) -> str:
    """Compares places of the application before and behind BentoML's layers, in turn."""
    tables = (compared(LAYERS, connections, seconds, rounds) for connections in (1, CONNECTIONS))
    return "## What BentoML's layers cost\n\n" + "\n\n".join(tables)


def compared(variants: Sequence[Variant], connections: int, seconds: float, rounds: int) -> str:
    """The figures of the variants in turn, and their ratios to the first."""
    readings: dict[str, list[tuple[Reading, float]]] = {one.name: [] for one in variants}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        wrk = Wrk(Path(name))
        mixes = {one.name: [(one.request, 1.0)] for one in variants}
        servers = {
            one.name: stack.enter_context(
                serving(Path(name) / str(number), one.service, one.request, **one.settings)
            )
            for number, one in enumerate(variants)
        }
        for one, server in servers.items():
            wrk.drive(server.port, mixes[one], connections, WARM_SECONDS)
        for _ in range(rounds):
            for one, server in servers.items():
                readings[one].append(load.driven(wrk, server, mixes[one], connections, seconds))
    base = readings[variants[0].name]
    rows = [_compared_row(name, measured, base) for name, measured in readings.items()]
    header = (
        "",
        "times the first, median of rounds",
        "times its processor time",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "errors",
    )
    how = (
        f"Predictions of 32×32, connections: {connections}; {rounds} rounds of {seconds:g} s in"
        " turn; the other servers rest meanwhile."
    )
    return f"{how}\n\n{table(header, rows)}"


def _compared_row(
    name: str, measured: list[tuple[Reading, float]], base: list[tuple[Reading, float]]
) -> tuple[object, ...]:
    pairs = list(zip(measured, base, strict=True))
    rate = statistics.median(one.rate / other.rate for (one, _), (other, _) in pairs)
    spent = statistics.median(one / other for (_, one), (_, other) in pairs)
    middle = load.median([reading for reading, _ in measured])
    return (
        name,
        f"{rate:.3f}",
        f"{spent:.3f}",
        f"{middle.rate:.0f}",
        f"{middle.p50:.2f}",
        f"{middle.p99:.2f}",
        middle.errors,
    )


def scrapes_section(seconds: float, _rounds: int) -> str:
    """Times scrapes of an idle server and of one under load, by the maker of their text."""
    rows: list[tuple[object, ...]] = []
    for maker, service in EXPOSITIONS.items():
        with (
            tempfile.TemporaryDirectory() as name,
            serving(Path(name) / "server", service) as server,
        ):
            rows.extend((maker, *row) for row in _scrape_rows(server, Wrk(Path(name)), seconds))
    header = ("text by", "lines", "load", "p50 ms", "p95 ms", "slowest ms")
    how = f"{SCRAPES} scrapes, {PAUSE_SECONDS:g} s between two, each over a connection of its own."
    return f"## Scrapes\n\n{how}\n\n{table(header, rows)}"


def _scrape_rows(server: Server, wrk: Wrk, seconds: float) -> Iterator[tuple[object, ...]]:
    wrk.drive(server.port, [(SMALL, 1)], CONNECTIONS, WARM_SECONDS)
    for path in COUNTED_PATHS:
        load.ask(server.port, path, SMALL.body, SMALL.headers)
    size = len(load.ask(server.port, "/metrics")[1].splitlines())
    yield (size, "idle", *_scraped(server))
    for connections in (1, CONNECTIONS):
        duration = max(seconds, 2 * SCRAPES * PAUSE_SECONDS)
        with wrk.driving(server.port, [(SMALL, 1)], connections, duration):
            time.sleep(PAUSE_SECONDS)
            yield (size, f"predictions at {connections} connections", *_scraped(server))


def _scraped(server: Server) -> tuple[str, ...]:
    times = []
    for _ in range(SCRAPES):
        started = time.perf_counter()
        load.ask(server.port, "/metrics")
        times.append(1000 * (time.perf_counter() - started))
        time.sleep(PAUSE_SECONDS)
    return tuple(
        f"{value:.1f}"
        for value in (*(arrivals.percentile(times, percent) for percent in (50, 95)), max(times))
    )


def stopping_section(seconds: float, rounds: int) -> str:
    """Sends SIGTERM under load, `rounds` times."""
    rows = []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as name, TestServer(Path(name)) as server:
            process = server.process
            stop = arrivals.run(
                stopping.stop_under_load(
                    server.port,
                    SMALL.raw(),
                    CONNECTIONS,
                    seconds,
                    partial(_has_ended, process),
                    process.pid,
                )
            )
            code = process.wait(load.STOP_SECONDS)
        rows.append(
            (
                number,
                dict(stop.before),
                dict(stop.after),
                stop.kept,
                stop.early,
                stop.late,
                code,
                "yes" if stop.clean and code == 0 else "NO",
            )
        )
    header = (
        "round",
        "sent before, by status",
        "sent after",
        "kept its connection",
        "no 200 in the window",
        "200 after it",
        "exit",
        "clean",
    )
    how = (
        f"SIGTERM after {seconds:g} s of predictions without pause over {CONNECTIONS} connections;"
        f" 0 is a rejected or lost connection. For {WINDOW_SECONDS:g} s after the signal"
        " requests are answered with Connection: close."
    )
    return f"## Stopping under load\n\n{how}\n\n{table(header, rows)}"


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is not None


SECTIONS: Mapping[str, Callable[[float, int], str]] = {
    "metrics": metrics_section,
    "observed": observed_section,
    "layers": layers_section,
    "scrapes": scrapes_section,
    "stopping": stopping_section,
}


if __name__ == "__main__":
    main()
