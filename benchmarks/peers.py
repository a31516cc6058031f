"""Candor beside other servers, with the same graph, the same image and every core.

One server runs at a time, started anew in each round; rounds are interleaved. Ratios are to the
best peer of the same round, and their medians count. The peers predict, in float32; Candor is
measured as it comes, in float32, and with a Grad-CAM map in every answer. Each peer is written as
most people write it (benchmarks/peer_servers), with one worker a core, in a virtual environment
that is kept under --cache. The table gives the reason where a peer cannot be installed or does not
answer.
"""

import base64
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

import service
from service.bundle import folder as contract
from service.settings import EMBEDDED_BUNDLE
from support import load
from support.load import CORES, Reading, Request, Server, Wrk, table
from support.servers import ROOT, environment, free_port

HERE = Path(__file__).parent / "peer_servers"
UV = ROOT / ".venv" / "bin" / "uv"
BASE = ("onnxruntime", "numpy", "pillow")
CONNECTIONS = (16, 1)
WARM_SECONDS = 2
BOUNDARY = "candor-7MA4YWxk"
OURS, EXPLAINING = "Candor", "Candor with Grad-CAM on every answer"
FLOAT32 = "Candor in float32"
EXPLAIN = "/predict?explain=grad_cam&map=array"
OURS_ASKED = {OURS: "/predict", FLOAT32: "/predict", EXPLAINING: EXPLAIN}
OURS_SET: Mapping[str, dict[str, Any]] = {FLOAT32: {"precision": "float32"}}
# The least times the best peer's requests/s at 16 connections, and the most times its p50 at one.
TARGETS = {OURS: (1.3, 0.65), EXPLAINING: (1.0, None)}
V2 = "/v2/models/model/infer"
JSON = {"Content-Type": "application/json"}
# PyTriton needs an interpreter with a shared libpython, as Debian's is.
SHARED_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Peer:
    """The packages, the command and the request of one server.

    The command has the fields `{bin}`, `{port}` and `{folder}`.
    """

    name: str
    packages: tuple[str, ...]
    command: str
    request: Callable[[bytes], Request]
    python: str = sys.executable

    @property
    def distribution(self) -> str:
        """The package that gives the version."""
        return self.packages[0].partition("=")[0].partition("[")[0]


def raw(body: bytes) -> Request:
    """The image itself."""
    return load.image("/predict", body)


def form(body: bytes) -> Request:
    """A part of a form."""
    disposition = 'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return Request("/predict", head.encode() + body + f"\r\n--{BOUNDARY}--\r\n".encode(), headers)


def text(body: bytes) -> str:
    """The image as base64."""
    return base64.b64encode(body).decode()


def plain_json(body: bytes) -> Request:
    """Base64 in JSON."""
    return Request("/predict", json.dumps({"image": text(body)}).encode(), JSON)


def kserve_v1(body: bytes) -> Request:
    """KServe's V1 protocol."""
    document = {"instances": [{"image_bytes": {"b64": text(body)}}]}
    return Request("/v1/models/model:predict", json.dumps(document).encode(), JSON)


def v2_json(body: bytes) -> Request:
    """The Open Inference Protocol with a tensor in JSON."""
    document = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text(body)]}]
    }
    return Request(V2, json.dumps(document).encode(), JSON)


def v2_binary(body: bytes) -> Request:
    """The Open Inference Protocol with a binary tensor."""
    blob = struct.pack("<I", len(body)) + body
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(blob)},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }
    return Request(V2, header + blob, headers)


PEERS = {
    "fastapi": Peer(
        "FastAPI", ("fastapi", "uvicorn[standard]"), "{bin}/python fastapi_peer.py", raw
    ),
    "litserve": Peer("LitServe", ("litserve",), "{bin}/python litserve_peer.py", plain_json),
    "kserve": Peer("KServe", ("kserve",), "{bin}/python kserve_peer.py", kserve_v1),
    # MLServer calls a function that newer versions of uvloop no longer have.
    "mlserver": Peer(
        "MLServer", ("mlserver", "uvloop<0.22"), "{bin}/mlserver start {folder}", v2_json
    ),
    "triton": Peer(
        "Triton", ("nvidia-pytriton",), "{bin}/python triton_peer.py", v2_binary, SHARED_PYTHON
    ),
    "bentoml": Peer(
        "BentoML's default",
        (f"bentoml=={version('bentoml')}",),
        "{bin}/bentoml serve bentoml_peer:Peer --host 127.0.0.1 --port {port}",
        form,
    ),
}


@dataclass(frozen=True)
class Bench:
    """The image, the bundle, the folders and the load that all servers share."""

    body: bytes
    bundle: Path | None
    cache: Path
    folder: Path
    wrk: Wrk
    seconds: float


@dataclass(frozen=True)
class Best:
    """The best peers of each round: requests/s at 16 connections, and p50 at one, in ms."""

    rates: Sequence[float]
    p50s: Sequence[float]


@dataclass(frozen=True)
class Measured:
    """One server's version and its readings by number of connections, or the reason for none."""

    name: str
    version: str
    readings: Mapping[int, list[Reading]]
    reason: str = ""


def user_cache() -> Path:
    """The folder of this user's caches."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "candor" / "peer_servers"
    )


def chosen(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """The peers in a list with commas."""
    names = tuple(name for name in value.split(",") if name)
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)} is no peer: give {', '.join(PEERS)}")
    return names


@click.command()
@click.option(
    "--seconds",
    default=6.0,
    show_default=True,
    type=click.FloatRange(1, 60),
    help="Duration of one measurement.",
)
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(1, 20),
    help="Interleaved rounds, whose medians are printed.",
)
@click.option(
    "--peers",
    default=",".join(PEERS),
    show_default=True,
    callback=chosen,
    help="The peers, with commas between them.",
)
@click.option(
    "--image",
    type=click.Choice(list(load.SIZES)),
    default="32×32",
    show_default=True,
    help="The size of the JPEG.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=user_cache,
    help="Folder of the peers' environments.",
)
@click.option(
    "--model",
    "bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The bundle; the embedded one if not given.",
)
def main(
    seconds: float, rounds: int, peers: Sequence[str], image: str, cache: Path, bundle: Path | None
) -> None:
    """Prints the table."""
    load.stop_on_sigterm()
    body = load.jpeg(image)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(body, bundle, cache, Path(name), Wrk(Path(name)), seconds)
        results = {own: Measured(own, service.__version__, {}) for own in OURS_ASKED} | {
            peer: installed(PEERS[peer], cache / peer) for peer in peers
        }
        limits = []
        for _ in range(rounds):
            results = {key: measured(bench, key, before) for key, before in results.items()}
            limits.append(load.in_process_limit(bundle, body, seconds))
    click.echo(f"{load.yardstick({image: limits})}")
    click.echo(f"\n{report(results, statistics.median(limits))}")
    click.echo(f"\n{verdict(results)}")


def installed(peer: Peer, place: Path) -> Measured:
    """Installs the peer into a virtual environment at `place`, unless it is complete already."""
    ready = place / "complete"
    try:
        if not ready.exists():
            uv("venv", "--clear", "--python", peer.python, str(place))
            uv("pip", "install", "--python", str(place), *peer.packages, *BASE)
            ready.touch()
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return Measured(peer.name, "", {}, f"cannot be installed: {lines[-1].strip()}")
    code = f"from importlib.metadata import version; print(version({peer.distribution!r}))"
    done = subprocess.run(
        [place / "bin" / "python", "-c", code], capture_output=True, text=True, check=True
    )
    return Measured(peer.name, done.stdout.strip(), {})


def uv(*arguments: str) -> None:
    """Runs uv, quietly."""
    subprocess.run([UV, "--quiet", *arguments], capture_output=True, text=True, check=True)


def measured(bench: Bench, key: str, before: Measured) -> Measured:
    """Adds one round of a server, unless it failed before."""
    if before.reason:
        return before
    own = OURS_ASKED.get(key)
    request = load.image(own, bench.body) if own else PEERS[key].request(bench.body)
    try:
        with serving(bench, key, request) as server:
            bench.wrk.drive(server.port, [(request, 1)], CONNECTIONS[0], WARM_SECONDS)
            readings = {
                connections: [
                    *before.readings.get(connections, []),
                    answering(bench, server, request, connections),
                ]
                for connections in CONNECTIONS
            }
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Measured(before.name, before.version, {}, f"does not run: {error}")
    return Measured(before.name, before.version, readings)


def answering(bench: Bench, server: Server, request: Request, connections: int) -> Reading:
    """The reading of a closed loop.

    Raises:
        RuntimeError: Nothing was answered, so that wrk's latencies are zeros.
    """
    reading = bench.wrk.drive(server.port, [(request, 1)], connections, bench.seconds)
    if not reading.requests:
        raise RuntimeError(f"no answer in {bench.seconds:g} s at {connections} connections")
    return reading


@contextmanager
def serving(bench: Bench, key: str, request: Request) -> Iterator[Server]:
    """Runs one server alone."""
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    if key in OURS_ASKED:
        settings = OURS_SET.get(key, {})
        with load.candor_running(folder, bench.bundle, request, **settings) as server:
            yield server
        return
    port = free_port()
    (folder / "model-settings.json").write_text(
        json.dumps({"name": "model", "implementation": "mlserver_peer.Peer"})
    )
    command = (
        PEERS[key]
        .command.format(bin=bench.cache.resolve() / key / "bin", port=port, folder=folder)
        .split()
    )
    with load.running(
        command, peer_environment(bench, folder, port), HERE, folder / "server.log", port, request
    ) as server:
        yield server


def peer_environment(bench: Bench, folder: Path, port: int) -> dict[str, str]:
    """The environment of a peer."""
    model = (bench.bundle or EMBEDDED_BUNDLE).resolve() / contract.PREDICT
    ours: dict[str, str] = {
        "MODEL": str(model),
        "PORT": str(port),
        "PROCESSES": str(CORES),
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    mlserver = {
        "HTTP_PORT": str(port),
        "GRPC_PORT": str(free_port()),
        "METRICS_PORT": str(free_port()),
        "HOST": load.HOST,
    }
    workers = {"PARALLEL_WORKERS": str(CORES if CORES > 1 else 0)}
    return (
        environment(folder / "home")
        | ours
        | {f"MLSERVER_{name}": value for name, value in (mlserver | workers).items()}
    )


def best_of(results: Mapping[str, Measured]) -> Best | None:
    """The best of the peers, round by round; None if none answered in every round."""
    peers = [one for key, one in results.items() if key not in OURS_ASKED and one.readings]
    if not peers:
        return None
    many, one = (zip(*(peer.readings[n] for peer in peers), strict=True) for n in CONNECTIONS)
    return Best(
        [max(reading.rate for reading in together) for together in many],
        [min(reading.p50 for reading in together) for together in one],
    )


def times_the_best(server: Measured, best: Best) -> tuple[float, float]:
    """Requests/s at 16 connections and p50 at one, each over the best peer's: medians of rounds."""
    many, one = (server.readings[number] for number in CONNECTIONS)
    rates = [own.rate / theirs for own, theirs in zip(many, best.rates, strict=True)]
    p50s = [own.p50 / theirs for own, theirs in zip(one, best.p50s, strict=True)]
    return statistics.median(rates), statistics.median(p50s)


def report(results: Mapping[str, Measured], limit: float) -> str:
    """The table: ratios to the best peer first, the fastest at 16 connections on top."""
    header = (
        *("server", "requests/s of the best peer's", "p50 at 1 of the best peer's"),
        *(f"{of} at {n}" for n in CONNECTIONS for of in ("requests/s", "p50 ms", "p99 ms")),
        *("of the limit", "errors", "version"),
    )
    answered = [one for one in results.values() if one.readings]
    best = best_of(results)
    rows = [row(one, best, limit) for one in sorted(answered, key=rate, reverse=True)]
    empty = [""] * (len(header) - 3)
    rows += [(one.name, one.reason, *empty, one.version) for one in results.values() if one.reason]
    return table(header, rows)


def row(server: Measured, best: Best | None, limit: float) -> tuple[object, ...]:
    """The row of a server that answered."""
    ratios = [f"{ratio:.2f}" for ratio in times_the_best(server, best)] if best else ["", ""]
    medians = [load.median(server.readings[number]) for number in CONNECTIONS]
    figures = [
        figure
        for one in medians
        for figure in (f"{one.rate:.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}")
    ]
    errors = sum(one.errors for one in medians)
    of_limit = f"{medians[0].rate / limit:.2f}"
    return (server.name, *ratios, *figures, of_limit, errors, server.version)


def verdict(results: Mapping[str, Measured]) -> str:
    """A sentence for each of ours on what is wanted of it beside the best peer."""
    best = best_of(results)
    if best is None:
        return "No peer answered: there is no comparison."
    return "\n".join(
        sentence(results[key], best, *wanted)
        for key, wanted in TARGETS.items()
        if results[key].readings
    )


def sentence(server: Measured, best: Best, least: float, most: float | None) -> str:
    """The ratios of a server beside what is wanted."""
    faster, sooner = times_the_best(server, best)
    hit = "met" if faster >= least else "missed"
    text = f"- {server.name}: {faster:.2f} times the best peer's requests/s (≥ {least:g}: {hit})"
    if most is None:
        return f"{text}."
    hit = "met" if sooner <= most else "missed"
    return f"{text}, {sooner:.2f} times its p50 at 1 connection (≤ {most:g}: {hit})."


def rate(server: Measured) -> float:
    """Requests/s at 16 connections."""
    return load.median(server.readings[CONNECTIONS[0]]).rate


if __name__ == "__main__":
    main()
