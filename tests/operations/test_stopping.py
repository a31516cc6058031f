"""The stop of the service: requests under way are answered and their connections end; later ones
are rejected, and it ends.
"""

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from contextlib import suppress

import httpx
import numpy as np
import pytest

from service.workers.drain import LINGER_SECONDS, WINDOW_SECONDS
from support import arrivals, load, proxies, rpc, rpc_stopping, stopping
from support.images import draw, encode
from support.rollout import HEAD, call
from support.servers import Server, free_port

PNG = {"content-type": "image/png"}
IMAGE = encode(draw(size=64))
SEEN_SECONDS = 1.5  # until a proxy knows that a server is ready


def request_in_thread(server, path, answers):
    """Sends a request from a thread of its own, which it returns."""

    def send():
        with suppress(httpx.TransportError):
            answers.append(httpx.post(server.url + path, content=IMAGE, headers=PNG, timeout=60))

    thread = threading.Thread(target=send)
    thread.start()
    wait_for_request(server)
    return thread


def wait_for_request(server):
    """Waits until a request is under way."""
    end = time.monotonic() + 10
    while not server.metric("candor_requests_in_flight"):
        assert time.monotonic() < end, "no request is under way"


# With one worker the rolling restart below stops under load.
def test_under_load_requests_sent_before_are_answered_and_later_ones_rejected(tmp_path):
    with Server(tmp_path, workers=2) as server:
        raw = load.image("/predict", load.jpeg("32×32")).raw()
        started = time.monotonic()
        stop = arrivals.run(
            stopping.stop_under_load(
                server.port,
                raw,
                16,
                1.0,
                lambda: server.process.poll() is not None,
                server.process.pid,
            )
        )
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < WINDOW_SECONDS + LINGER_SECONDS + 10
    assert stop.clean, stop
    assert stop.before[200] > 50


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.benchmark)])
def test_calls_of_grpc_are_answered_by_all_workers_and_later_ones_rejected(rounds, tmp_path):
    body = rpc.request("cifar10", np.zeros((1, 32, 32, 3), np.uint8)).SerializeToString()
    for number in range(rounds):
        (folder := tmp_path / str(number)).mkdir()
        port = free_port()
        with Server(folder, workers=2, grpc_port=port) as server:
            server.client.close()
            # The first to be ready would get all connections. They end after 4 s, and the next ones
            # are shared out anew.
            server.wait_for_processes(2)
            before = rpc_stopping.ticks(server.process.pid)
            stop = asyncio.run(rpc_stopping.stop_under_calls(port, body, 16, 6.0, server.process))
            assert server.process.wait(10) == 0
        assert set(stop.before) == {"OK"}, stop
        assert stop.clean, stop
        assert "Traceback" not in server.log.read_text()
        assert stop.before["OK"] > 30
        assert stop.words["the service is stopping: ask another replica"] > 0
        assert len(before) == 2
        assert min(stop.ticks[pid] - before[pid] for pid in before) > 20, "one worker had it all"


def test_while_it_stops_it_is_not_ready_and_after_a_window_rejects_with_a_reason(tmp_path):
    with (
        Server(tmp_path, workers=1) as server,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        slow.sendall(HEAD % len(IMAGE))  # a request that has begun
        wait_for_request(server)
        server.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{server.url}/readyz").status_code == httpx.codes.OK:
            time.sleep(0.02)
        answer = httpx.post(f"{server.url}/predict", content=IMAGE, headers=PNG)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        time.sleep(WINDOW_SECONDS + 1)  # it began a little after the signal
        assert httpx.get(f"{server.url}/livez").status_code == 200
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        assert httpx.get(f"{server.url}/v2/health/ready").json() == {
            "error": "the service is stopping: ask another replica"
        }
        rejected = httpx.post(f"{server.url}/predict", content=IMAGE, headers=PNG)
        assert (rejected.status_code, rejected.json()["code"], rejected.headers["connection"]) == (
            503,
            "unavailable",
            "close",
        )
        assert "candor_ready 0.0\n" in httpx.get(f"{server.url}/metrics").text
        slow.sendall(IMAGE)
        assert slow.recv(1_000).startswith(b"HTTP/1.1 200")
        assert server.process.wait(20) == 0


async def restart_in_turn(port, servers, statuses, requests, pause):
    """Restarts the servers behind `port` one after the other, under 16 callers.

    The busiest of them make a `pause` of so many seconds between two requests.
    """
    done, pauses = asyncio.Event(), [pause, 2 * pause, 0.1, 0.7] * 4
    callers = [
        asyncio.create_task(call(("127.0.0.1", port), IMAGE, pause, statuses, done))
        for pause in pauses
    ]
    await asyncio.sleep(SEEN_SECONDS)
    for server in servers:
        server.client.close()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        await asyncio.to_thread(server.__enter__)
        await asyncio.sleep(SEEN_SECONDS)
    while len(statuses) < requests:  # noqa: ASYNC110 - the callers go on
        await asyncio.sleep(0.1)
    done.set()
    await asyncio.gather(*callers)


@pytest.mark.parametrize(
    ("requests", "pause"), [(1_000, 0.02), pytest.param(5_000, 0, marks=pytest.mark.benchmark)]
)
def test_a_rolling_restart_behind_haproxy_fails_no_request(requests, pause, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "proxy")]
    for folder in folders:
        folder.mkdir()
    statuses = []
    with (
        Server(folders[0], workers=1) as first,
        Server(folders[1], workers=1) as second,
        proxies.haproxy(folders[2], [first.authority, second.authority]) as port,
    ):
        asyncio.run(restart_in_turn(port, (first, second), statuses, requests, pause))
    assert Counter(statuses) == {200: len(statuses)}


def test_a_request_longer_than_the_drain_gets_503_with_a_reason(tmp_path):
    with Server(tmp_path, workers=1, drain_seconds=1) as server:
        answers = []
        thread = request_in_thread(
            server,
            # Ten seconds on a quiet core: Integrated Gradients stop early, within the second.
            "/explain?method=kernel_shap&samples=4096&deadline_ms=60000&quality=full",
            answers,
        )
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        thread.join(10)
    (answer,) = answers
    assert answer.status_code == 503
    assert (
        answer.json()["detail"]
        == "the service has stopped before this was answered: ask another replica"
    )
    assert "1 requests are not answered after 1 s" in server.log.read_text()


def test_in_a_pod_a_killed_worker_ends_the_service(tmp_path):
    server = Server(tmp_path, workers=1)
    server.environment["BENTOML_CONTAINERIZED"] = "true"  # as in every image that BentoML builds
    with server:
        os.kill(server.worker(), signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/livez", timeout=2)
        assert server.process.wait(15) != 0


def test_elsewhere_a_killed_worker_is_started_again_and_without_connections_all_end_at_once(
    tmp_path,
):
    with Server(tmp_path, workers=2) as server:
        server.wait_for_processes(2)
        os.kill(server.worker(), signal.SIGKILL)
        server.wait_for_processes(1)
        server.wait_for_processes(2)
        assert server.metric("candor_workers") == 2, "the gauges of the killed one are gone"
        server.client.close()
        time.sleep(0.3)  # until its end is seen
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < WINDOW_SECONDS
