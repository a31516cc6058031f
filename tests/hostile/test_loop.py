"""No body holds the event loop: absurd ones are rejected by a count, large ones parsed on threads.

Measured without Candor's limits, the bodies took up to 4 s of the loop's time each.
"""

import asyncio
import base64
import gc
import os
import threading
import time
from pathlib import Path

import httpx
import orjson
import pytest

from service.api import large
from service.schedule.pipeline import Pipeline
from service.schedule.timing import Timing
from service.settings import Settings
from service.telemetry.metrics import Metrics
from support.heavy_bodies import HEAVY, packed_texts, png
from support.images import draw, encode
from support.servers import Server

CPU_SECONDS = 0.5  # of a whole request; an idle machine needs a fifth of it
TURN_SECONDS = 0.05  # of the loop's own processor time
PROBED_SECONDS = 0.1  # more than an undisturbed probe


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """A server of one worker."""
    with Server(tmp_path_factory.mktemp("server"), workers=1) as running:
        yield running


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def send(server, heavy, body):
    return httpx.post(
        server.url + heavy.path,
        content=body,
        headers={"content-type": heavy.content_type},
        timeout=60,
    )


class Probes:
    """GET /livez every 20 ms on a connection of its own; `worst` is the longest answer."""

    def __init__(self, url):
        self.worst = 0.0
        self._stop = threading.Event()
        self._client = httpx.Client(base_url=url, timeout=60)
        self._client.get("/livez")
        self._thread = threading.Thread(target=self._probe)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _probe(self):
        while not self._stop.wait(0.02):
            started = time.perf_counter()
            assert self._client.get("/livez").status_code == 200
            self.worst = max(self.worst, time.perf_counter() - started)


@pytest.mark.parametrize("name", HEAVY)
def test_a_heavy_body_is_answered_after_little_work(name, lone):
    heavy, body = HEAVY[name], HEAVY[name].body()
    assert len(body) < 10 * 2**20
    before = cpu_seconds(lone.worker())
    answer = send(lone, heavy, body)
    assert answer.status_code == heavy.status, answer.text[:300]
    assert cpu_seconds(lone.worker()) - before < CPU_SECONDS


@pytest.fixture(scope="module")
def undisturbed(lone):
    """The longest answer to a probe within 2 s without other requests."""
    with Probes(lone.url) as probes:
        time.sleep(2)
    return probes.worst


@pytest.mark.benchmark
@pytest.mark.parametrize("name", HEAVY)
def test_probes_are_answered_while_a_heavy_body_is_parsed(name, lone, undisturbed):
    heavy, body = HEAVY[name], HEAVY[name].body()
    with Probes(lone.url) as probes:
        for _ in range(3):
            send(lone, heavy, body)
    assert probes.worst < undisturbed + PROBED_SECONDS


@pytest.mark.benchmark
def test_probes_are_answered_while_64_small_images_are_decoded(lone, undisturbed):
    image = base64.b64encode(encode(draw(size=128))).decode()
    body = orjson.dumps({"images": [image] * 64})
    with Probes(lone.url) as probes:
        for _ in range(3):
            answer = lone.client.post(
                "/predict", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200
    assert probes.worst < undisturbed + PROBED_SECONDS


async def longest_turn(work):
    """Processor seconds of the event loop's thread between two of its turns, at most."""
    loop, longest, last = asyncio.get_running_loop(), 0.0, time.thread_time()

    def turn():
        nonlocal longest, last, handle
        now = time.thread_time()
        longest, last = max(longest, now - last), now
        handle = loop.call_soon(turn)

    handle = loop.call_soon(turn)
    await work
    await asyncio.sleep(0)
    handle.cancel()
    return longest


@pytest.mark.parametrize("count", [1, 64])
def test_images_of_dear_headers_are_opened_off_the_loop(count, engine, embedded):
    # 4 MB of text in 4 kB take 8 ms, more are rejected; and 64 such images come at once.
    pipeline = Pipeline(engine, Settings(), Metrics())
    body = png(packed_texts(4))

    async def receive():
        timing = Timing(pipeline.metrics)
        return await asyncio.gather(
            *(pipeline.receive(body, timing, keep=False) for _ in range(count))
        )

    gc.freeze()  # as a worker does: a collection of the test's own objects is no work of the loop
    try:
        # The least of three: a machine may stop a thread, and counts that as the thread's time.
        assert min(asyncio.run(longest_turn(receive())) for _ in range(3)) < TURN_SECONDS
    finally:
        pipeline.close()


def test_a_large_body_is_parsed_off_the_loop():
    thread = asyncio.run(large.parse(bytes(large.LARGE_BYTES + 1), threading.get_ident))
    assert thread != threading.get_ident()


def test_a_small_body_is_parsed_on_the_loop():
    thread = asyncio.run(large.parse(bytes(large.LARGE_BYTES), threading.get_ident))
    assert thread == threading.get_ident()
