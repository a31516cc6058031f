"""Tools of the benchmarks of servers: requests, process groups, wrk, the in-process limit, tables.

Everything stays on loopback, on free ports, and is bounded in time. A `Request` is built once, so
that every generator sends the same bytes. Durations are seconds, latencies milliseconds.
"""

import http.client
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click

from service.bundle import folder as contract
from service.image.budget import MAX_PIXELS
from service.predictions import predict
from service.runtime.engine import Engine
from service.schedule.sent import fit_image
from service.settings import Settings
from service.workers.host import cpu_seconds, resident_bytes
from support.images import draw, encode
from support.servers import ROOT, descendants, environment, free_port
from support.trees import WORKING, Tree

HOST = "127.0.0.1"
CORES = os.cpu_count() or 1
START_FIELD = 19  # of /proc/PID/stat, after the name
READY_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 120, 15, 10
SIZES = {"32×32": (32, 32), "640×480": (640, 480)}
FEW_ERRORS = 100  # of a load: their kinds say where to look; rejections are more
SLOTS = 100  # requests in one turn of a mix: shares are exact to a hundredth

SCRIPT = """local function read(name)
  local file = assert(io.open(name, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end
local requests = {{}}
for number, name in ipairs({{ {files} }}) do
  requests[number] = read(name)
end
local order = {{ {order} }}
local turn = 0
function request()
  turn = turn % #order + 1
  return requests[order[turn]]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{{"requests": %d, "microseconds": %d, "p50": %f, "p99": %f, "errors": {{' ..
    '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True)
class Request:
    """A POST of `body`."""

    path: str
    body: bytes
    headers: Mapping[str, str]

    def raw(self) -> bytes:
        """The bytes on the wire, HTTP/1.1, keep-alive."""
        headers = {"Host": HOST, "Content-Length": str(len(self.body)), **self.headers}
        lines = [
            f"POST {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True)
class Reading:
    """wrk's figures: `rate` in requests/s, latencies `p50` and `p99` in ms, `errors` of `requests`.

    Errors are of any kind; rejections count as such.
    """

    rate: float
    p50: float
    p99: float
    errors: int
    requests: int


@dataclass(frozen=True)
class Server:
    """A running server: its process group, its port, and the seconds until its first answer."""

    pid: int
    port: int
    seconds_to_ready: float


def jpeg(size: str, seed: int = 0) -> bytes:
    """A drawn image of one of `SIZES`."""
    width, height = SIZES[size]
    return encode(draw("red", height, seed, width), "JPEG", quality=90)


def image(path: str, body: bytes, kind: str = "jpeg") -> Request:
    """An upload of `body`, as it is, to `path`."""
    return Request(path, body, {"Content-Type": f"image/{kind}"})


@contextmanager
def candor_running(
    folder: Path,
    bundle: Path | None,
    warm: Request,
    tree: Tree = WORKING,
    **settings: object,
) -> Iterator[Server]:
    """The service of `tree`, ready to answer; `settings` are not as by default.

    Its log is `folder`/server.log.
    """
    port = free_port()
    settings["port"] = port
    if bundle is not None:
        settings["bundle"] = bundle.resolve()
    command = [tree.python, "-m", "service", "serve"]
    environs, log = environment(folder / "home", **settings), folder / "server.log"
    with running(command, environs, tree.folder, log, port, warm) as server:
        yield server


@contextmanager
def running(
    command: Sequence[str],
    settings: Mapping[str, str],
    where: Path,
    log: Path,
    port: int,
    warm: Request,
) -> Iterator[Server]:
    """Runs `command` in a process group of its own, which ends with the block.

    The block begins once the server answers `warm` with 200.

    Raises:
        RuntimeError: It does not within READY_SECONDS. The last line of its log is quoted.
    """
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=where, env=dict(settings), stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        _await(process, port, warm, log)
        yield Server(process.pid, port, time.monotonic() - started)
    finally:
        _stop(process)


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Keeps processes started inside on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stop_on_sigterm() -> None:
    """Makes SIGTERM end the command by an exception, so that it stops the servers it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _await(process: subprocess.Popen[bytes], port: int, warm: Request, log: Path) -> None:
    started = time.monotonic()
    while not answers(port, warm):
        if process.poll() is not None or time.monotonic() - started > READY_SECONDS:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
            late = f"did not answer within {READY_SECONDS} s"
            raise RuntimeError(
                f"the server {late if process.poll() is None else 'ended'}: {lines[-1].strip()}"
            )
        time.sleep(0.02)  # the error of `seconds_to_ready`


def answers(port: int, request: Request) -> bool:
    """True if the server answers `request` with 200."""
    try:
        return ask(port, request.path, request.body, request.headers)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def ask(
    port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """The status and the body of the answer to one POST, or to a GET if `body` is None."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def family(pid: int) -> dict[int, str]:
    """A process and its descendants, each with its start time (Linux; elsewhere empty)."""
    return {one: started for one in (pid, *descendants(pid)) if (started := _started(one))}


def _started(pid: int) -> str | None:
    try:
        # The name before the last bracket may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[START_FIELD]
    except OSError:
        return None


def resident_mib(server: Server) -> list[float]:
    """The resident memory of every worker of the server, in MiB (Linux)."""
    return [
        resident_bytes([pid]) / 2**20
        for pid in sorted(family(server.pid))
        if "onnxruntime" in Path(f"/proc/{pid}/maps").read_text()
    ]


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group, and descendants in other groups, by SIGTERM and then by SIGKILL."""
    members = family(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # BentoML's workers lead groups of their own. The start time tells apart a reused process id.
    for pid, started in members.items():
        if _started(pid) == started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def find(command: str, package: str) -> str:
    """The path of a load generator, which is installed if it is missing.

    Raises:
        ClickException: It is missing, and this user may not install it.
    """
    subprocess.run([ROOT / "scripts" / "packages", package], check=False)
    path = shutil.which(command)
    if path is None:
        raise click.ClickException(
            f"{command}, which makes the load, is missing: install the package {package}"
        )
    return path


class Wrk:
    """wrk with one thread. Its script and the bytes that it sends lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._program = find("wrk", "wrk")
        self._folder = folder

    def drive(
        self, port: int, mix: Sequence[tuple[Request, float]], connections: int, seconds: float
    ) -> Reading:
        """The reading of a closed loop: each connection sends once its last request is answered."""
        with self.driving(port, mix, connections, seconds) as process:
            return parse(process.communicate(timeout=seconds + 60)[0])

    @contextmanager
    def driving(
        self, port: int, mix: Sequence[tuple[Request, float]], connections: int, seconds: float
    ) -> Iterator[subprocess.Popen[str]]:
        """The same load while the block runs; it ends with the block."""
        command = [
            self._program,
            "-t1",
            f"-c{connections}",
            f"-d{round(seconds)}s",
            f"--timeout={ANSWER_SECONDS}s",
            "-s",
        ]
        target = [str(self._script(mix)), f"http://{HOST}:{port}"]
        with subprocess.Popen(
            [*command, *target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _script(self, mix: Sequence[tuple[Request, float]]) -> Path:
        """A script that sends each request of `mix` by its share, in a fixed shuffled order."""
        name = f"{len(list(self._folder.glob('*.lua')))}"
        files = [self._folder / f"{name}-{number}.http" for number in range(len(mix))]
        for file, (request, _) in zip(files, mix, strict=True):
            file.write_bytes(request.raw())
        script = self._folder / f"{name}.lua"
        order = shuffled([share for _, share in mix])
        script.write_text(
            SCRIPT.format(
                files=", ".join(f'"{file}"' for file in files),
                order=", ".join(str(1 + number) for number in order),
            )
        )
        return script


def driven(
    wrk: Wrk, server: Server, mix: Sequence[tuple[Request, float]], connections: int, seconds: float
) -> tuple[Reading, float]:
    """The reading, and the processor seconds a request.

    Other work on the machine changes only the first.
    """
    before = cpu_seconds(family(server.pid))
    reading = wrk.drive(server.port, mix, connections, seconds)
    return reading, (cpu_seconds(family(server.pid)) - before) / reading.requests


def shuffled(shares: Sequence[float]) -> list[int]:
    """SLOTS numbers of shares, each as often as its share demands, shuffled with seed 0."""
    order = [number for number, share in enumerate(shares) for _ in range(round(SLOTS * share))]
    random.Random(0).shuffle(order)  # noqa: S311 - no secret
    return order


def parse(output: str) -> Reading:
    """The reading in wrk's output; of a few errors, as of a race, the kinds go to stderr.

    Raises:
        RuntimeError: There is none. The message quotes the output.
    """
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise RuntimeError(f"wrk measured nothing: {output.strip()}")
    figures = json.loads(line)
    errors = {kind: count for kind, count in figures["errors"].items() if count}
    if 0 < sum(errors.values()) <= FEW_ERRORS:
        click.echo(f"wrk's errors: {errors} of {figures['requests']} requests", err=True)
    return Reading(
        rate=1e6 * figures["requests"] / figures["microseconds"],
        p50=figures["p50"] / 1000,
        p99=figures["p99"] / 1000,
        errors=sum(errors.values()),
        requests=figures["requests"],
    )


def median(readings: Sequence[Reading]) -> Reading:
    """The medians of several rounds; errors and requests are summed."""
    columns = {key: [asdict(reading)[key] for reading in readings] for key in asdict(readings[0])}
    middle = {key: statistics.median(columns[key]) for key in ("rate", "p50", "p99")}
    return Reading(**middle, errors=sum(columns["errors"]), requests=sum(columns["requests"]))


def in_process_limit(bundle: Path | None, body: bytes, seconds: float) -> float:
    """The yardstick: images a second without HTTP, decoded and predicted one by one in float32.

    One process runs on every core.
    """
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(CORES)
    results: multiprocessing.SimpleQueue[float] = context.SimpleQueue()
    folder = bundle or Settings().bundle
    workers = [
        context.Process(target=_predicting, args=(folder, body, seconds, together, results))
        for _ in range(CORES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process of the in-process limit failed: its trace is above")
    return sum(results.get() for _ in workers)


def yardstick(limits: Mapping[str, Sequence[float]]) -> str:
    """The in-process limits by size of image, medians, as a sentence."""
    each = ", ".join(
        f"{statistics.median(rates):.0f} images/s of {size}" for size, rates in limits.items()
    )
    return (
        "The in-process limit (decode and predict one by one in float32, a process a core, no "
        f"HTTP): {each}."
    )


def _predicting(
    folder: Path,
    body: bytes,
    seconds: float,
    together: Barrier,
    results: "multiprocessing.SimpleQueue[float]",
) -> None:
    engine, limit = Engine(contract.load(folder), "cpu", 1), MAX_PIXELS
    together.wait(READY_SECONDS)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        sent = fit_image(body, engine.manifest.input, limit, keep=False)
        predict(engine.predict(sent.fitted[None]).rows()[0], engine.manifest)
        count += 1
    results.put(count / (time.perf_counter() - started))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
