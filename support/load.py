"""What the benchmarks of servers share: requests, servers in their own process group, wrk, the in-process limit, Markdown.

Everything stays on loopback, on free ports, and is bounded in time. A `Request` is built once, so that every generator sends the same
bytes. Durations are seconds, latencies milliseconds.
"""

import http.client
import json
import multiprocessing
import os
import platform
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
from datetime import date
from multiprocessing.synchronize import Barrier
from pathlib import Path

import click
import onnxruntime as ort

from service.bundle import folder as contract
from service.predictions import predict
from service.runtime.engine import Engine
from service.schedule.pipeline import fit_image
from service.settings import Settings
from service.workers.host import cpu_seconds
from support.images import draw, encode
from support.servers import environment, free_port

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"
CORES = os.cpu_count() or 1
START_FIELD = 19  # of /proc/PID/stat, after the name
READY_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 120, 15, 10
SIZES = {"32×32": (32, 32), "640×480": (640, 480)}
SLOTS = 100  # requests in one turn of a mix: a share is met to a hundredth

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
  io.write(string.format('{{"requests": %d, "microseconds": %d, "p50": %f, "p99": %f, "errors": %d}}\\n', summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
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
    """What wrk measured: `rate` in requests/s, latencies `p50` and `p99` in ms, `errors` of any kind (refusals count) of `requests`."""

    rate: float
    p50: float
    p99: float
    errors: int
    requests: int


@dataclass(frozen=True)
class Server:
    """A running server: its process group and where it listens."""

    pid: int
    port: int


def jpeg(size: str, seed: int = 0) -> bytes:
    """A drawn image of one of `SIZES`."""
    width, height = SIZES[size]
    return encode(draw("red", height, seed, width), "JPEG", quality=90)


def image(path: str, body: bytes, kind: str = "jpeg") -> Request:
    """`body` sent as it is to `path`."""
    return Request(path, body, {"Content-Type": f"image/{kind}"})


def candor(port: int, bundle: Path | None, home: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of `python -m service serve`, default settings; `home` is its BENTOML_HOME."""
    settings = {"port": port} | ({} if bundle is None else {"bundle": bundle.resolve()})
    return [sys.executable, "-m", "service", "serve"], environment(home, **settings)


@contextmanager
def candor_running(folder: Path, bundle: Path | None, warm: Request) -> Iterator[Server]:
    """The service, ready to answer; its log is `folder`/server.log."""
    port = free_port()
    command, settings = candor(port, bundle, folder / "home")
    with running(command, settings, ROOT, folder / "server.log", port, warm) as server:
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
    """`command` in a process group of its own, from its first good answer to `warm` on; the whole group ends with the block.

    Raises:
        RuntimeError: it does not answer within READY_SECONDS; the message ends with the last line of its log.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=where, env=dict(settings), stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        _await(process, port, warm, log)
        yield Server(process.pid, port)
    finally:
        _stop(process)


@contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """What is started inside runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def stop_on_sigterm() -> None:
    """A SIGTERM ends the command as an exception does, so that every server it started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _await(process: subprocess.Popen[bytes], port: int, warm: Request, log: Path) -> None:
    started = time.monotonic()
    while not answers(port, warm):
        if process.poll() is not None or time.monotonic() - started > READY_SECONDS:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
            ended = (
                "ended"
                if process.poll() is not None
                else f"did not answer within {READY_SECONDS} s"
            )
            raise RuntimeError(f"the server {ended}: {lines[-1].strip()}")
        time.sleep(0.2)


def answers(port: int, request: Request) -> bool:
    """Whether `request` is answered with 200."""
    try:
        return ask(port, request.path, request.body, request.headers)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def ask(
    port: int, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """The status and body of one POST, or of a GET where there is no body to send."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def family(pid: int) -> dict[int, str]:
    """A process and all that it started, directly or not, each with the time of its own start (Linux; elsewhere nothing)."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[START_FIELD]
        children = [
            child
            for task in Path(f"/proc/{pid}/task").glob("*/children")
            for child in task.read_text().split()
        ]
    except OSError:  # it has ended
        return {}
    return {pid: started} | {
        one: time for child in children for one, time in family(int(child)).items()
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group: asked first, killed if it does not listen; so is whoever of its family outlives it elsewhere.

    BentoML's workers, for one, lead groups of their own.
    """
    members = family(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pid, started in members.items():
        if family(pid).get(pid) == started:  # not another process with its number
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def find(command: str, package: str) -> str:
    """The path of a generator of load, installed if it is missing and this user may.

    Raises:
        ClickException: it is missing, and cannot be installed.
    """
    subprocess.run([ROOT / "scripts" / "packages", package], check=False)
    found = shutil.which(command)
    if found is None:
        raise click.ClickException(
            f"{command} is missing, and makes the load: install it (Debian and Ubuntu have it in the package {package})"
        )
    return found


class Wrk:
    """wrk with one thread; its script and the bytes it sends lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._program = find("wrk", "wrk")
        self._folder = folder

    def drive(
        self, port: int, mix: Sequence[tuple[Request, float]], connections: int, seconds: float
    ) -> Reading:
        """Closed loop: each of `connections` sends the next request when the last is answered."""
        with self.driving(port, mix, connections, seconds) as process:
            return parse(process.communicate(timeout=seconds + 60)[0])

    @contextmanager
    def driving(
        self, port: int, mix: Sequence[tuple[Request, float]], connections: int, seconds: float
    ) -> Iterator[subprocess.Popen[str]]:
        """The same, beside what is inside the block; ended with it."""
        command = [
            self._program,
            "-t1",
            f"-c{connections}",
            f"-d{round(seconds)}s",
            f"--timeout={ANSWER_SECONDS}s",
            "-s",
        ]
        where = [str(self._script(mix)), f"http://{HOST}:{port}"]
        with subprocess.Popen(
            [*command, *where], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _script(self, mix: Sequence[tuple[Request, float]]) -> Path:
        """A script that sends each request of `mix` as often as its share says, in a shuffled order that is always the same."""
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
    """The reading, and the processor seconds that a request took; neighbours on the machine move only the first."""
    before = cpu_seconds(family(server.pid))
    reading = wrk.drive(server.port, mix, connections, seconds)
    return reading, (cpu_seconds(family(server.pid)) - before) / reading.requests


def shuffled(shares: Sequence[float]) -> list[int]:
    """The numbers of the shares, each in as many of SLOTS places as its share says; seed 0."""
    order = [number for number, share in enumerate(shares) for _ in range(round(SLOTS * share))]
    random.Random(0).shuffle(order)  # noqa: S311 - no secret
    return order


def parse(output: str) -> Reading:
    """The reading in wrk's output.

    Raises:
        RuntimeError: there is none; the message is the output.
    """
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        raise RuntimeError(f"wrk measured nothing: {output.strip()}")
    told = json.loads(line)
    rate = 1e6 * told["requests"] / told["microseconds"]
    return Reading(rate, told["p50"] / 1000, told["p99"] / 1000, told["errors"], told["requests"])


def median(readings: Sequence[Reading]) -> Reading:
    """The medians of several rounds; errors and requests are summed."""
    columns = {key: [asdict(reading)[key] for reading in readings] for key in asdict(readings[0])}
    middle = {key: statistics.median(columns[key]) for key in ("rate", "p50", "p99")}
    return Reading(**middle, errors=sum(columns["errors"]), requests=sum(columns["requests"]))


def in_process_limit(bundle: Path | None, body: bytes, seconds: float) -> float:
    """Images a second that are decoded and predicted one by one on every core, a process each, without HTTP: the yardstick."""
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
        raise RuntimeError("a process of the in-process limit failed; its trace is above")
    return sum(results.get() for _ in workers)


def yardstick(limits: Mapping[str, Sequence[float]]) -> str:
    """The in-process limits by size of image, medians, as a sentence."""
    each = ", ".join(
        f"{statistics.median(rates):.0f} images/s of {size}" for size, rates in limits.items()
    )
    return (
        f"The in-process limit (decode and predict one by one, a process a core, no HTTP): {each}."
    )


def _predicting(
    folder: Path,
    body: bytes,
    seconds: float,
    together: Barrier,
    results: "multiprocessing.SimpleQueue[float]",
) -> None:
    engine, limit = Engine(contract.load(folder), "cpu", 1), Settings().max_pixels
    together.wait(READY_SECONDS)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        sent = fit_image(body, engine.manifest.input, limit, keep=False)
        predict(engine.predict(sent.fitted[None]).rows()[0], engine.manifest)
        count += 1
    results.put(count / (time.perf_counter() - started))


def machine() -> str:
    """The machine and the day, as one line."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    day = date.today().isoformat()  # noqa: DTZ011 - the day where it runs
    return f"{name}, {CORES} cores, onnxruntime {ort.__version__}, Python {platform.python_version()}, {day}"


def _cpuinfo() -> list[str]:
    source = Path("/proc/cpuinfo")
    return source.read_text().splitlines() if source.exists() else []


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
