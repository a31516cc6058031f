"""The costs of operating the service: metrics, the access log, scrapes; and losses at a stop.

Every section starts real servers on free ports of loopback. Load and server share the machine, so
the ratios matter more than the figures.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from support import arrivals, load, stopping
from support.load import Reading, Server, Wrk, table
from support.servers import ROOT, environment, free_port
from support.servers import Server as TestServer

CONNECTIONS = 16
SCRAPES, PAUSE_SECONDS = 50, 0.1
WARM_SECONDS = 2
SMALL = load.image("/predict", load.jpeg("32×32"))


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(["metrics", "scrapes", "stopping"]))
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
    click.echo(load.machine())
    for section in sections or tuple(SECTIONS):
        click.echo(f"\n{SECTIONS[section](seconds, rounds)}")


@contextmanager
def serving(folder: Path, service: str, **settings: object) -> Iterator[Server]:
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
        command, environment(folder / "home", **settings), ROOT, folder / "server.log", port, SMALL
    ) as server:
        yield server


def metrics_section(seconds: float, rounds: int) -> str:
    """Compares metrics, metrics that count nothing, and an access log, in turn."""
    readings: dict[str, list[tuple[Reading, float]]] = {
        "as it is": [],
        "metrics that count nothing": [],
        "an access log": [],
    }
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name) / "as", "service.app:Candor") as real,
        serving(Path(name) / "silent", "benchmarks.silent:Candor") as silent,
        serving(Path(name) / "access", "service.app:Candor", access_log="true") as access,
    ):
        wrk = Wrk(Path(name))
        servers = dict(zip(readings, (real, silent, access), strict=True))
        for server in servers.values():
            wrk.drive(server.port, [(SMALL, 1)], CONNECTIONS, WARM_SECONDS)
        for _ in range(rounds):
            for what, server in servers.items():
                readings[what].append(load.driven(wrk, server, [(SMALL, 1)], CONNECTIONS, seconds))
    base = readings["metrics that count nothing"]
    rows = []
    for what, measured in readings.items():
        pairs = list(zip(measured, base, strict=True))
        rate = statistics.median(one.rate / other.rate for (one, _), (other, _) in pairs)
        spent = statistics.median(one / other for (_, one), (_, other) in pairs)
        middle = load.median([reading for reading, _ in measured])
        rows.append(
            (
                what,
                f"{middle.rate:.0f}",
                f"{rate:.3f}",
                f"{spent:.3f}",
                f"{middle.p50:.2f}",
                f"{middle.p99:.2f}",
                middle.errors,
            )
        )
    header = (
        "",
        "requests/s",
        "of one without metrics, median of rounds",
        "times its processor time",
        "p50 ms",
        "p99 ms",
        "errors",
    )
    how = (
        f"Predictions of 32×32 at {CONNECTIONS} connections, {rounds} rounds of {seconds:g} s in"
        " turn; the other servers rest meanwhile."
    )
    return f"## What metrics cost\n\n{how}\n\n{table(header, rows)}"


def scrapes_section(seconds: float, _rounds: int) -> str:
    """Times scrapes of an idle server and of one under load."""
    rows = []
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name) / "server", "service.app:Candor") as server,
    ):
        wrk = Wrk(Path(name))
        wrk.drive(server.port, [(SMALL, 1)], CONNECTIONS, WARM_SECONDS)
        for path in (
            "/explain?method=grad_cam",
            "/explain?method=integrated_gradients&steps=4",
            "/nothing",
        ):
            load.ask(server.port, path, SMALL.body, SMALL.headers)
        size = len(load.ask(server.port, "/metrics")[1].splitlines())
        rows.append(("idle", *_scraped(server)))
        for connections in (1, CONNECTIONS):
            with wrk.driving(
                server.port, [(SMALL, 1)], connections, max(seconds, 2 * SCRAPES * PAUSE_SECONDS)
            ):
                time.sleep(PAUSE_SECONDS)
                rows.append((f"predictions at {connections} connections", *_scraped(server)))
    header = ("load", "p50 ms", "p95 ms", "slowest ms")
    how = (
        f"{SCRAPES} scrapes of {size} lines, {PAUSE_SECONDS:g} s between two,"
        " each over a connection of its own."
    )
    return f"## Scrapes\n\n{how}\n\n{table(header, rows)}"


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
                stop.late,
                code,
                "yes" if stop.clean and code == 0 else "NO",
            )
        )
    header = (
        "round",
        "sent before, by status",
        "sent after",
        f"200 to a request {stopping.SLACK_SECONDS:g} s after",
        "exit",
        "clean",
    )
    how = (
        f"SIGTERM after {seconds:g} s of predictions without pause over {CONNECTIONS} connections;"
        " 0 is a rejected or lost connection."
    )
    return f"## Stopping under load\n\n{how}\n\n{table(header, rows)}"


def _has_ended(process: "subprocess.Popen[bytes]") -> bool:
    return process.poll() is not None


SECTIONS: Mapping[str, Callable[[float, int], str]] = {
    "metrics": metrics_section,
    "scrapes": scrapes_section,
    "stopping": stopping_section,
}


if __name__ == "__main__":
    main()
