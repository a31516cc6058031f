"""No caller makes a worker need more memory than its pod has.

The files are small, and announce as many pixels as the service takes at all, or many more.
"""

import base64
import io
import itertools
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from support.exhaustion import BODY_BYTES, LARGE, bodies_held_open
from support.groups import memory_group, peak_bytes
from support.images import draw, encode
from support.large_images import KINDS, made
from support.senders import Senders
from support.servers import Server

LIMIT_BYTES, PEAK_BYTES = 2**30, 900 * 2**20
SMALL, PHOTO = encode(draw()), encode(draw(size=480, width=640), "JPEG")
DEADLINE = "?deadline_ms=60000"


@pytest.fixture(scope="module")
def pod(tmp_path_factory):
    """A server with one worker in 1 GiB, as k8s/base has it, and its control group."""
    with memory_group(LIMIT_BYTES) as group:
        if group is None:
            pytest.skip("this kernel forbids control groups of memory")
        command = group.command(sys.executable, "-m", "service", "serve")
        folder = tmp_path_factory.mktemp("pod")
        with Server(folder, command=command, workers=1, threads=2) as server:
            yield server, group


def status(server, body, path="/predict", kind="application/octet-stream"):
    answer = httpx.post(
        server.url + path + DEADLINE, content=body, headers={"content-type": kind}, timeout=90
    )
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        assert answer.headers["retry-after"] == "1"
    return answer.status_code


@contextmanager
def undisturbed(server, group):
    """Checks that a normal caller gets its answers meanwhile, and that nothing is killed."""
    worker, stop, seen = server.worker(), threading.Event(), []

    def ask():
        while not stop.wait(0.2):
            seen.extend(status(server, body) for body in (SMALL, PHOTO))

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield
    finally:
        stop.set()
        caller.join()
    assert set(seen) == {200}
    assert (group.kills(), server.worker()) == (0, worker)
    assert peak_bytes(server.process.pid) < PEAK_BYTES


def fitting(server, kind, share=0.7):
    """A file of this kind that takes `share` of the memory for images; one may have 0.75."""
    limit = server.metric('candor_budget_limit_bytes{budget="images"}')
    return made(kind, int((share * limit / KINDS[kind]) ** 0.5))


def test_images_of_every_kind_stay_within_a_pod(pod):
    server, group = pod
    files = {kind: fitting(server, kind) for kind in KINDS}
    with undisturbed(server, group), ThreadPoolExecutor(8) as pool:
        for kind, body in files.items():
            assert status(server, made(kind, LARGE)) == 413, kind
            assert status(server, body) == 200, kind
        mixed = list(pool.map(lambda one: status(server, one), files.values()))
        assert set(mixed) <= {200, 429}
        assert 200 in mixed
    assert server.metric('candor_budget_used_bytes{budget="images"}') == 0


def sent(server, files, first):
    """The statuses of these files, sent in turn from number `first` on, without end."""
    for body in itertools.islice(itertools.cycle(files), first, None):
        yield status(server, body)


def p99_ms(server, seconds):
    """The 99th percentile of one caller with a small image, who pauses for 10 ms between two."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        answer = server.client.post(
            "/predict", content=SMALL, headers={"content-type": "image/png"}
        )
        times.append(time.perf_counter() - began)
        assert answer.status_code == 200
        time.sleep(0.01)
    return 1_000 * np.quantile(times, 0.99)


@pytest.mark.benchmark
def test_a_normal_caller_is_answered_beside_senders_of_large_images(pod):
    server, group = pod
    files = [fitting(server, kind) for kind in KINDS]
    p99_ms(server, 5)
    alone, beside = [], []
    for count in (1, 8, 1, 8):
        alone.append(p99_ms(server, 10))
        senders = [sent(server, files, first) for first in range(count)]
        with undisturbed(server, group), Senders(senders) as large:
            beside.append(p99_ms(server, 20))
        assert set(large.statuses) <= {200, 429}
    assert np.median(beside) <= 4 * np.median(alone), (alone, beside)


@pytest.mark.benchmark
@pytest.mark.timeout(1_200)
def test_eight_images_of_a_kind_at_once_stay_within_a_pod(pod):
    server, group = pod
    with undisturbed(server, group), ThreadPoolExecutor(8) as pool:
        for kind in KINDS:
            body = fitting(server, kind)
            assert set(pool.map(lambda one: status(server, one), [body] * 8)) <= {200, 429}, kind
            huge = made(kind, LARGE)
            assert set(pool.map(lambda one: status(server, one), [huge] * 8)) == {413}, kind


def test_every_protocol_charges_images(pod):
    server, group = pod
    name = server.client.get("/v1/models").json()["models"][0]

    def statuses(body):
        text = base64.b64encode(body).decode()
        tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
        for path, document in (
            (f"/v1/models/{name}:predict", {"instances": [text]}),
            (f"/v1/models/{name}:explain", {"instances": [text]}),
            (f"/v2/models/{name}/infer", {"inputs": [tensor]}),
            ("/predict", {"image": text}),
            ("/explain", {"image": text}),
        ):
            answer = server.client.post(path, json=document)
            yield answer.status_code

    with undisturbed(server, group):
        assert set(statuses(made("webp animation", LARGE))) == {413}
        assert set(statuses(fitting(server, "webp animation", 0.5))) == {200}


def test_overlays_and_masks_stay_within_a_pod(pod):
    server, group = pod
    body = fitting(server, "png RGBA", 0.45)
    side = Image.open(io.BytesIO(body)).width
    values = (np.arange(side) * 4 // side * 50).astype(np.uint8)
    mask = encode(np.broadcast_to(values, (side, side)))
    document = json.dumps(
        {
            "image": base64.b64encode(body).decode(),
            "mask": base64.b64encode(mask).decode(),
            "method": "lime",
            "samples": 16,
            "legend": True,
        }
    )

    def ask(_):
        return status(server, document, "/explain", "application/json")

    with undisturbed(server, group), ThreadPoolExecutor(8) as pool:
        assert ask(0) == 200
        assert set(pool.map(ask, range(3))) <= {200, 429}


def test_many_images_in_one_request_are_decoded_one_by_one(pod):
    server, group = pod
    # Rows of noise that repeat: the file is small, its overlay is not.
    noise = np.random.default_rng(0).integers(0, 256, (8, 600)).astype(np.uint8)
    texts = [base64.b64encode(encode(np.tile(noise, (75, 1)))).decode()] * 62
    texts += [base64.b64encode(fitting(server, "webp animation", 0.5)).decode()] * 2
    with undisturbed(server, group):
        answer = httpx.post(
            f"{server.url}/explain{DEADLINE}", json={"images": texts}, timeout=90
        ).json()
    codes = [result.get("error", {}).get("status", 200) for result in answer["results"]]
    assert set(codes) <= {200, 429}
    assert codes.count(200) >= 2


def test_bodies_held_open_stay_within_a_pod(pod):
    server, group = pod
    place = ("127.0.0.1", server.port)
    with undisturbed(server, group), bodies_held_open(place) as answers:
        limit = server.metric('candor_budget_limit_bytes{budget="bodies"}')
        assert BODY_BYTES <= server.metric('candor_budget_used_bytes{budget="bodies"}') <= limit
    assert set(answers) <= {b"HTTP/1.1 429", b""}
    assert b"HTTP/1.1 429" in answers
    assert status(server, SMALL) == 200


def test_answers_that_nobody_reads_are_bounded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1_900, 1_900, 3), np.uint8)
    image = encode(noise, "JPEG", quality=30)  # its overlay is larger than what the kernel buffers
    asking = (
        f"POST /explain HTTP/1.1\r\nHost: localhost\r\nAccept: image/png\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(image)}\r\n\r\n"
    ).encode() + image
    reason = 'candor_connections_closed_total{reason="unread"}'
    with Server(tmp_path, workers=1, max_body_bytes=2**22, body_memory=2**23) as server:
        callers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
        try:
            for caller in callers:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                caller.sendall(asking)
            end = time.monotonic() + 30
            while not server.metric(reason) and time.monotonic() < end:
                time.sleep(0.2)
            assert server.metric(reason) > 0
            assert status(server, SMALL) == 200
        finally:
            for caller in callers:
                caller.close()
