"""Mutated images and requests, and a soak of hostile and normal callers, against a real server.

No outcome may be a 500, and no process may end. An input whose outcome is new (a status with an
error's code and words) joins the corpus that later inputs are made of; --corpus keeps it.
"""

import hashlib
import itertools
import json
import random
import re
import select
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import click

from service.workers.host import resident_bytes
from support import load, mutations
from support.heavy_bodies import HEAVY
from support.large_images import KINDS, made
from support.load import Server, Wrk, table

CALLERS = 4
ANSWER_SECONDS = 20
SLOW_SECONDS = 1.0
PARTS = 6  # of a soak; memory is to be flat after the first
REST_SECONDS = 40  # the service gives free memory back every 30 s
NORMAL_CONNECTIONS = 4
FAULTS = re.compile("5(?!03|04)")  # statuses that no caller may cause
SMALL = load.image("/predict", load.jpeg("32×32"))
DEAR = "/explain?method=kernel_shap&samples=4096&segments=32&deadline_ms=800"  # before SLOW_SECONDS
HOSTILE_SHARE = 0.05  # of the requests of a soak; the others are mutated
MIB = 2**20


class Outcome(NamedTuple):
    """The status of an answer, 0 without one, and an error's code and words without its numbers."""

    status: str
    words: str


class Corpus:
    """Inputs with different outcomes; `folder` keeps them for the next run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._seen: set[Outcome] = set()
        self._lock = threading.Lock()
        self.inputs = mutations.images() + [path.read_bytes() for path in folder.glob("*.bin")]

    def note(self, data: bytes, outcome: Outcome) -> None:
        """Keeps `data` if nothing had its outcome before."""
        with self._lock:
            if outcome in self._seen:
                return
            self._seen.add(outcome)
            self.inputs.append(data)
        digest = hashlib.sha256(data).hexdigest()[:16]
        (self._folder / f"{outcome.status}-{digest}.bin").write_bytes(data)

    def __len__(self) -> int:
        return len(self.inputs)


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(["images", "requests", "soak"]))
@click.option(
    "--minutes", default=10.0, show_default=True, type=click.FloatRange(0.05, 600), help="Of each."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--corpus",
    default=Path("corpus"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the inputs that are kept.",
)
def main(sections: tuple[str, ...], minutes: float, seed: int, corpus: Path) -> None:
    """Prints SECTIONS, all if none is named, as Markdown; fails after a 500 or an ended process."""
    load.stop_on_sigterm()
    failed = False
    for section in sections or tuple(SECTIONS):
        text, counts = SECTIONS[section](60 * minutes, seed, corpus)
        click.echo(f"\n{text}")
        failed |= any(FAULTS.match(status) for status in counts)
    sys.exit(1 if failed else 0)


@contextmanager
def serving() -> Iterator[Server]:
    """The service with default settings, which must live until the end of the block.

    Raises:
        RuntimeError: A process of it has ended.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        load.candor_running(Path(name), None, SMALL) as server,
    ):
        before = load.family(server.pid)
        yield server
        if lost := before.keys() - load.family(server.pid).keys():
            raise RuntimeError(f"the processes {sorted(lost)} have ended")


def images_section(seconds: float, seed: int, folder: Path) -> tuple[str, Counter[str]]:
    """Sends mutated images to /predict and /explain."""
    corpus = Corpus(folder / "images")

    def make(source: random.Random) -> tuple[bytes, bytes]:
        image = mutations.mutated(source.choice(corpus.inputs), corpus.inputs, source)
        path = source.choice(("/predict", "/explain", "/explain?map=overlay"))
        kind = source.choice(("png", "jpeg", "webp"))
        raw = load.image(path, image, kind).raw()
        return image, raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)

    with serving() as server:
        return _fuzzed("Mutated images", server, corpus, make, seconds, seed)


def requests_section(seconds: float, seed: int, folder: Path) -> tuple[str, Counter[str]]:
    """Sends mutated requests to every route."""
    corpus = Corpus(folder / "images")  # bodies; whole requests would only nest

    def make(source: random.Random) -> tuple[bytes, bytes]:
        raw = mutations.request(corpus.inputs, source)
        return b"", raw

    with serving() as server:
        return _fuzzed("Mutated requests", server, corpus, make, seconds, seed)


def soak_section(seconds: float, seed: int, folder: Path) -> tuple[str, Counter[str]]:
    """Sends normal predictions and hostile input at once; measures resident memory at rest."""
    corpus = Corpus(folder / "images")
    hostile = _hostile()

    def make(source: random.Random) -> tuple[bytes, bytes]:
        if source.random() < HOSTILE_SHARE:
            raw = source.choice(hostile)
            return b"", raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        return b"", mutations.request(corpus.inputs, source)

    counts: Counter[str] = Counter()
    at_rest, rates, errors, part = list[float](), list[float](), 0, seconds / PARTS
    with serving() as server, tempfile.TemporaryDirectory() as name:
        wrk = Wrk(Path(name))
        for number in range(PARTS):
            with wrk.driving(server.port, [(SMALL, 1)], NORMAL_CONNECTIONS, part) as normal:
                counts += _fuzzed("", server, corpus, make, part, seed + number)[1]
                reading = load.parse(normal.communicate(timeout=60)[0])
            rates.append(reading.rate)
            errors += reading.errors
            time.sleep(REST_SECONDS)
            at_rest.append(resident_bytes(load.family(server.pid)) / MIB)
    rows = [
        ("normal predictions a second, by part", _numbers(rates)),
        ("errors of theirs", errors),
        ("hostile requests, by status", _tally(counts)),
        ("resident MiB at rest after each part", _numbers(at_rest)),
    ]
    title = f"## Soak, {PARTS} parts in {seconds / 60:g} minutes"
    return f"{title}\n\n{table(('', ''), rows)}", counts


def _hostile() -> list[bytes]:
    """Requests that were dear to the service: large images, heavy bodies, long explanations."""
    plain = {"Content-Type": "application/octet-stream"}
    requests = [
        *(load.Request("/explain?map=overlay", made(kind, 2_000), plain) for kind in KINDS),
        *(
            load.Request(heavy.path, heavy.body(), {"Content-Type": heavy.content_type})
            for heavy in HEAVY.values()
        ),
        load.Request(DEAR, load.jpeg("32×32"), plain),
    ]
    return [request.raw() for request in requests]


Make = Callable[[random.Random], tuple[bytes, bytes]]


def _fuzzed(
    title: str, server: Server, corpus: Corpus, make: Make, seconds: float, seed: int
) -> tuple[str, Counter[str]]:
    """The table and the statuses of what `make` makes: an input for the corpus, and a request."""
    end, numbers = time.monotonic() + seconds, itertools.count()
    counts: Counter[str] = Counter()
    slow: list[float] = []
    before = len(corpus)

    def call() -> None:
        while time.monotonic() < end:
            data, raw = make(random.Random(f"{seed}/{next(numbers)}"))  # noqa: S311 - no secret
            started = time.monotonic()
            outcome = _outcome(server.port, raw)
            if time.monotonic() - started > SLOW_SECONDS:
                slow.append(time.monotonic() - started)
            counts[outcome.status] += 1
            if data:
                corpus.note(data, outcome)
            if FAULTS.match(outcome.status):
                click.echo(f"{outcome}: {raw[:200]!r}", err=True)

    with ThreadPoolExecutor(CALLERS) as callers:
        for done in [callers.submit(call) for _ in range(CALLERS)]:
            done.result()
    rows = [(status, count) for status, count in sorted(counts.items())]
    how = (
        f"{counts.total():,} in {seconds / 60:g} minutes from {CALLERS} callers, seed {seed}; the "
        f"corpus grew from {before} to {len(corpus)}; {len(slow)} answers took more than "
        f"{SLOW_SECONDS:g} s, the slowest {max(slow, default=0):.1f} s. 0 is a closed connection."
    )
    return f"## {title}\n\n{how}\n\n{table(('status', 'answers'), rows)}", counts


def _outcome(port: int, raw: bytes) -> Outcome:
    answer = b""
    with suppress(OSError), socket.create_connection((load.HOST, port), ANSWER_SECONDS) as caller:
        caller.sendall(raw)
        if not select.select([caller], [], [], SLOW_SECONDS)[0]:
            caller.shutdown(socket.SHUT_WR)  # the service may wait for more
        while part := caller.recv(65_536):
            answer += part
    status = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    if status is None:
        return Outcome("0", "")
    return Outcome(status[1].decode(), _words(answer.partition(b"\r\n\r\n")[2]))


def _words(body: bytes) -> str:
    """The code and the detail of an error without numbers and quotations; else nothing."""
    try:
        problem = json.loads(body)
        text = f"{problem['code']} {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return ""
    return re.sub(r"\d[\d.,]*|'.*?'|\".*?\"", "…", text)[:200]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} × {status}" for status, count in sorted(counts.items()))


SECTIONS: Mapping[str, Callable[[float, int, Path], tuple[str, Counter[str]]]] = {
    "images": images_section,
    "requests": requests_section,
    "soak": soak_section,
}


if __name__ == "__main__":
    main()
