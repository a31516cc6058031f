"""The stop of the service: requests under way are answered, later ones rejected, and it ends."""

import os
import signal
import threading
import time
from contextlib import suppress

import httpx
import pytest

from support import arrivals, load, stopping
from support.images import draw, encode
from support.servers import Server

PNG = {"content-type": "image/png"}
IMAGE = encode(draw(size=64))


def request_in_thread(server, path, answers):
    """Sends a request from a thread of its own, which it returns."""

    def send():
        with suppress(httpx.TransportError):
            answers.append(httpx.post(server.url + path, content=IMAGE, headers=PNG, timeout=60))

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("workers", [1, 2])
def test_under_load_requests_sent_before_are_answered_and_later_ones_rejected(workers, tmp_path):
    with Server(tmp_path, workers=workers) as server:
        raw = load.image("/predict", load.jpeg("32×32")).raw()
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
    assert stop.clean, stop
    assert stop.before[200] > 50


def test_while_it_stops_it_is_not_ready_and_rejects_with_a_reason(tmp_path):
    with Server(tmp_path, workers=1) as server:
        answers = []
        thread = request_in_thread(
            server, "/explain?method=integrated_gradients&steps=512&deadline_ms=60000", answers
        )
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.4)
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
        thread.join(60)
        assert server.process.wait(20) == 0
    assert [answer.status_code for answer in answers] == [200]


def test_a_request_longer_than_the_drain_gets_503_with_a_reason(tmp_path):
    with Server(tmp_path, workers=1, drain_seconds=1) as server:
        answers = []
        thread = request_in_thread(
            server,
            "/explain?method=integrated_gradients&steps=512&deadline_ms=60000&quality=full",
            answers,
        )
        time.sleep(0.3)
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


def test_elsewhere_a_killed_worker_is_started_again_and_its_gauges_are_gone(tmp_path):
    with Server(tmp_path, workers=2) as server:
        server.wait_for_processes(2)
        os.kill(server.worker(), signal.SIGKILL)
        server.wait_for_processes(1)
        server.wait_for_processes(2)
        assert server.metric("candor_workers") == 2
