"""Candor beside other servers, with the same graph, the same image and every core.

One server runs at a time; rounds are interleaved, and medians count. Each peer is written as most
people write it (benchmarks/peer_servers), with one worker a core, in a virtual environment that is
kept under --cache. The table gives the reason where a peer cannot be installed or does not answer.
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
OURS = "Candor"
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
    default=3,
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
        results = {OURS: Measured(OURS, service.__version__, {})} | {
            peer: installed(PEERS[peer], cache / peer) for peer in peers
        }
        limits = []
        for _ in range(rounds):
            results = {key: measured(bench, key, before) for key, before in results.items()}
            limits.append(load.in_process_limit(bundle, body, seconds))
    click.echo(f"{load.yardstick({image: limits})}")
    click.echo(f"\n{report(list(results.values()), statistics.median(limits))}")
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
    request = raw(bench.body) if key == OURS else PEERS[key].request(bench.body)
    try:
        with serving(bench, key, request) as server:
            bench.wrk.drive(server.port, [(request, 1)], CONNECTIONS[0], WARM_SECONDS)
            readings = {
                connections: [
                    *before.readings.get(connections, []),
                    bench.wrk.drive(server.port, [(request, 1)], connections, bench.seconds),
                ]
                for connections in CONNECTIONS
            }
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Measured(before.name, before.version, {}, f"does not run: {error}")
    return Measured(before.name, before.version, readings)


@contextmanager
def serving(bench: Bench, key: str, request: Request) -> Iterator[Server]:
    """Runs one server alone."""
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    if key == OURS:
        with load.candor_running(folder, bench.bundle, request) as server:
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


def report(servers: Sequence[Measured], limit: float) -> str:
    """The table, with the fastest at 16 connections first."""
    header = (
        "server",
        "version",
        "connections",
        "requests/s",
        "of the limit",
        "p50 ms",
        "p99 ms",
        "errors",
    )
    rows: list[tuple[object, ...]] = []
    for connections in CONNECTIONS:
        ranked = [
            (server, load.median(server.readings[connections]))
            for server in servers
            if server.readings
        ]
        for server, reading in sorted(ranked, key=lambda pair: -pair[1].rate):
            figures = (
                f"{reading.rate:.0f}",
                f"{reading.rate / limit:.2f}",
                f"{reading.p50:.2f}",
                f"{reading.p99:.2f}",
            )
            rows.append((server.name, server.version, connections, *figures, reading.errors))
    rows += [
        (server.name, server.version, server.reason, "", "", "", "", "")
        for server in servers
        if server.reason
    ]
    return table(header, rows)


def verdict(results: Mapping[str, Measured]) -> str:
    """A sentence on Candor beside the best peers."""
    peers = [server for key, server in results.items() if key != OURS and server.readings]
    if not peers or not results[OURS].readings:
        return "No peer answered: there is no comparison."
    fastest, soonest, ours = max(peers, key=rate), min(peers, key=wait), results[OURS]
    return (
        f"Candor answers {rate(ours) / rate(fastest):.2f} times the requests of the best peer at 16"
        f" connections ({fastest.name}), and its p50 at 1 connection is"
        f" {wait(ours) / wait(soonest):.2f} times that of the best peer ({soonest.name})."
    )


def rate(server: Measured) -> float:
    """Requests/s at 16 connections."""
    return load.median(server.readings[CONNECTIONS[0]]).rate


def wait(server: Measured) -> float:
    """The p50 at 1 connection, in ms."""
    return load.median(server.readings[CONNECTIONS[1]]).p50


if __name__ == "__main__":
    main()
