"""gRPC beside HTTP's binary tensors: UINT8 pixels to one server, interleaved; stops under calls.

h2load makes both loads, a closed loop of the same connections with one request open on each, over
HTTP/1.1 and over HTTP/2. Load and server share the machine, so the ratio matters, not the figures.
h2load sees HTTP's status alone: the server's own count says how many calls were answered.
"""

import asyncio
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from service.api.grpc import INFER, SERVICE
from service.workers.host import cpu_seconds
from support import load, rates, rpc, rpc_stopping
from support.arrivals import percentile
from support.load import table
from support.servers import Server, descendants, free_port

CALLERS, WARM_SECONDS, OK = 16, 2, 200
HTTP, GRPC = "HTTP, binary tensors", "gRPC"
METHOD, ROUTE = f"/{SERVICE}/{INFER}", "/v2/models/{name}/infer"
CALLING_SECONDS = 2.0  # before the signal of a stop


@dataclass(frozen=True)
class Side:
    """One protocol: what h2load sends where, and the route that the server counts it under."""

    name: str
    options: Sequence[str]
    body: bytes
    url: str
    route: str


@dataclass(frozen=True)
class Round:
    """Requests a second, latencies and the server's processor time a request (ms), and losses."""

    rate: float
    p50: float
    p99: float
    cpu: float
    lost: int


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(["throughput", "stopping"]))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(1, 60))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1, 50))
@click.option("--workers", default=0, show_default=True, help="0: one a core.")
def main(sections: tuple[str, ...], seconds: float, rounds: int, workers: int) -> None:
    """Prints SECTIONS, all if none is named, as Markdown."""
    load.stop_on_sigterm()
    if "throughput" in sections or not sections:
        click.echo(f"{throughput(seconds, rounds, workers)}")
    if "stopping" in sections or not sections:
        click.echo(f"\n{stopping(rounds)}")


def throughput(seconds: float, rounds: int, workers: int) -> str:
    """Measures both protocols in turn."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Server(folder, workers=workers, grpc_port=port) as server:
            sides = (http(server.port), grpc(port))
            found: dict[str, list[Round]] = {side.name: [] for side in sides}
            for side in sides:
                drive(server, side, WARM_SECONDS, folder)
            for _ in range(rounds):
                for side in sides:
                    found[side.name].append(drive(server, side, seconds, folder))
    ratios = [one.rate / other.rate for other, one in zip(found[HTTP], found[GRPC], strict=True)]
    header = ("protocol", "requests/s", "p50 ms", "p99 ms", "p99 / p50", "CPU ms a request", "lost")
    rows = [line(side, measured) for side, measured in found.items()]
    return (
        f"{CALLERS} callers, UINT8 (1, 32, 32, 3), {rounds} rounds of {seconds:g} s:\n\n"
        f"{table(header, rows)}\n\ngRPC answers {statistics.median(ratios):.3f} times as many "
        f"(median of the rounds; {min(ratios):.3f} to {max(ratios):.3f})."
    )


def line(name: str, rounds: Sequence[Round]) -> tuple[object, ...]:
    """The row of one protocol: medians, and the sum of losses."""
    rate, p50, p99, cpu = (
        statistics.median(getattr(each, of) for each in rounds)
        for of in ("rate", "p50", "p99", "cpu")
    )
    lost = sum(each.lost for each in rounds)
    return (name, f"{rate:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{p99 / p50:.2f}", f"{cpu:.2f}", lost)


def pixels() -> np.ndarray:
    """uint8 (1, 32, 32, 3), the same in every run."""
    return np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)


def http(port: int) -> Side:
    """POST /v2/models/cifar10/infer with binary data, answered by binary data."""
    data = pixels()
    tensor = {
        "name": "pixels",
        "datatype": "UINT8",
        "shape": data.shape,
        "parameters": {"binary_data_size": data.nbytes},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    options = (
        "--h1",
        "--header=content-type: application/octet-stream",
        f"--header=inference-header-content-length: {len(head)}",
    )
    url = f"http://127.0.0.1:{port}/v2/models/cifar10/infer"
    return Side(HTTP, options, head + data.tobytes(), url, ROUTE)


def grpc(port: int) -> Side:
    """ModelInfer with the same pixels, raw."""
    message = rpc.bytes_of(rpc.request("cifar10", pixels()))
    framed = b"\0" + len(message).to_bytes(4, "big") + message  # not compressed
    options = ("--header=content-type: application/grpc", "--header=te: trailers")
    return Side(GRPC, options, framed, f"http://127.0.0.1:{port}{METHOD}", METHOD)


def drive(server: Server, side: Side, seconds: float, folder: Path) -> Round:
    """One round of one protocol."""
    body, log = folder / "body", folder / "h2load.log"
    body.write_bytes(side.body)
    log.unlink(missing_ok=True)
    pids = [server.process.pid, *descendants(server.process.pid)]
    answered, cpu = count(server, side), cpu_seconds(pids)
    options = (f"-c{CALLERS}", "-m1", "-t1", f"-D{seconds:g}", f"--data={body}")
    subprocess.run(
        [
            load.find("h2load", "nghttp2-client"),
            *options,
            f"--log-file={log}",
            *side.options,
            side.url,
        ],
        check=True,
        capture_output=True,
    )
    cpu, answered = cpu_seconds(pids) - cpu, count(server, side) - answered
    exchanges = rates.read(log)
    times = [each.milliseconds for each in exchanges]
    good = sum(each.status == OK for each in exchanges)
    return Round(
        good / seconds,
        percentile(times, 50),
        percentile(times, 99),
        1000 * cpu / max(1, good),
        max(0, good - round(answered)) + len(exchanges) - good,
    )


def count(server: Server, side: Side) -> float:
    """The answers of a route with 200, as the server counts them."""
    name = f'candor_requests_total{{code="200",route="{side.route}"}}'
    try:
        return server.metric(name)
    except StopIteration:  # none yet
        return 0.0


def stopping(rounds: int) -> str:
    """Stops servers under calls of 16 callers."""
    body = rpc.bytes_of(rpc.request("cifar10", pixels()))
    rows = []
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as name:
            port = free_port()
            with Server(Path(name), grpc_port=port) as server:
                server.client.close()
                stop = asyncio.run(
                    rpc_stopping.stop_under_calls(
                        port, body, CALLERS, CALLING_SECONDS, server.process
                    )
                )
        found = (dict(stop.before), dict(stop.within), dict(stop.after))
        rows.append((number, *found, "yes" if stop.clean else "NO"))
    header = ("stop", "sent before the signal", "within the window", "later", "clean")
    return table(header, rows)


if __name__ == "__main__":
    main()
