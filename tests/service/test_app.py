"""The process starts quickly, stays small and without torch, and loses no request when it stops."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from support import arrivals, load
from support.images import draw, encode
from support.servers import ROOT, Server, environment

IMAGE = encode(draw(size=64))
PNG = {"content-type": "image/png"}


def memory_mib(pid):
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) / 1024


@pytest.mark.benchmark
def test_the_service_is_ready_within_seconds(tmp_path):
    with Server(tmp_path) as server:
        assert server.seconds_to_ready < 15, f"{server.seconds_to_ready:.1f} s"


def test_the_service_logs_one_line_at_its_start_and_stays_small_without_torch(tmp_path):
    with Server(tmp_path, workers=2) as server:
        server.wait_for_processes(2)
        end = time.monotonic() + 10
        while not (text := server.log.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        for _ in range(100):
            assert server.client.post("/predict", content=IMAGE, headers=PNG).status_code == 200
        for method in (
            "grad_cam",
            "integrated_gradients",
            "smooth_grad",
            "saliency",
            "input_x_gradient",
        ) * 4:
            assert (
                server.client.post(
                    f"/explain?method={method}&deadline_ms=60000", content=IMAGE, headers=PNG
                ).status_code
                == 200
            )
        # One connection: the worker that answered it all is the largest.
        workers = server.workers()
        assert len(workers) == 2
        largest = max(map(memory_mib, workers))
        assert largest < 300, f"{largest:.0f} MiB"
        for worker in workers:
            assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
    assert server.process.returncode == 0
    (line,) = text.splitlines()
    assert re.search(rf"\] Candor: {server.url} \(cifar10 [0-9a-f]{{12}}, CPU, 2 workers\)$", line)


def test_a_request_to_a_full_queue_is_rejected_with_the_reason_and_a_time_to_retry(server):
    raw = load.image("/predict", IMAGE, "png").raw()
    answers = arrivals.run(arrivals.together(server.port, [raw] * 1500))
    rejected = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert len(answers) == 1500
    for answer in rejected:
        assert re.search(rb"(?i)\r\nretry-after: [1-9]", answer.head)
        assert json.loads(answer.body)["code"] == "too_many_requests"
        assert "queue is full (limit" in json.loads(answer.body)["detail"]


def test_the_service_imports_neither_torch_nor_training():
    code = (
        "import sys, service.__main__, service.api.app, service.app, service.schedule.pipeline; "
        "print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "'onnxruntime'" in loaded
    assert not {"'torch'", "'training'", "'captum'", "'torchvision'"} & set(
        loaded.strip("[]\n").split(", ")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_has_begun_is_answered_after_the_signal(number, tmp_path):
    with Server(tmp_path, workers=1, drain_seconds=120) as server:
        answers = []

        def ask():
            answers.append(
                httpx.post(
                    f"{server.url}/explain?method=integrated_gradients&steps=256&tolerance=0&deadline_ms=60000",
                    content=IMAGE,
                    headers=PNG,
                    timeout=120,
                )
            )

        asking = threading.Thread(target=ask)
        asking.start()
        while not server.metric("candor_requests_in_flight"):
            assert not answers, "the request was over before the signal"
        server.process.send_signal(number)
        asking.join(120)
        assert server.process.wait(60) == 0
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["explanation"]["parameters"]["steps"] == 256


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prot": "3000"}, "CANDOR_PROT is no setting of Candor: did you mean CANDOR_PORT?"),
        ({"port": "eighty"}, "CANDOR_PORT is 'eighty'; it must be a whole number from 1 to 65,535"),
        ({"device": "tpu"}, "CANDOR_DEVICE is 'tpu'; it must be one of auto, cpu, cuda, tensorrt"),
        ({"bundle": "/nowhere"}, "CANDOR_BUNDLE is '/nowhere'; it must be a folder that exists"),
        ({"bundle": "/tmp"}, "/tmp is no bundle"),
        (
            {"precision": "int4"},
            "CANDOR_PRECISION is 'int4'; it must be one of auto, float32, bfloat16, int8",
        ),
        (
            {"precision": "int8", "device": "cuda"},
            "CANDOR_PRECISION is 'int8', for CPUs alone, and the device is cuda",
        ),
    ],
)
def test_a_bad_setting_stops_the_start_with_a_sentence(settings, sentence, tmp_path):
    command = [sys.executable, "-m", "service", "serve"]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert sentence in run.stderr
    assert "Traceback" not in run.stderr


def test_a_bad_setting_stops_bentomls_command_with_a_sentence(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "service.app:Candor"],
        cwd=ROOT,
        env=environment(tmp_path, prot=3000),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert "CANDOR_PROT is no setting of Candor: did you mean CANDOR_PORT?" in line


@pytest.mark.parametrize("path", ["/predict", "/v2/models/cifar10/infer"])
def test_a_caller_that_disconnects_while_sending_is_no_failure_of_the_service(server, path):
    route, logged = path.replace("cifar10", "{name}"), len(server.log.read_text())
    gone = re.compile(
        rf'^candor_requests_total{{code="499",route="{re.escape(route)}"}} (\S+)$', re.MULTILINE
    )

    def disconnected():
        return sum(map(float, gone.findall(server.client.get("/metrics").text)))

    before = disconnected()
    caller = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    caller.sendall(f"{head}Content-Length: 5000\r\n\r\nabc".encode())
    time.sleep(0.2)
    caller.close()
    end = time.monotonic() + 5
    while disconnected() != before + 1:
        assert time.monotonic() < end, server.client.get("/metrics").text
        time.sleep(0.05)
    assert "a defect" not in server.log.read_text()[logged:]


def test_a_port_in_use_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "service", "serve"],
            cwd=ROOT,
            env=environment(tmp_path, port=port),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert (
        f"the service cannot listen on 127.0.0.1, port {port} (Address already in use): "
        "stop what listens there, or choose another port" in line
    )
    assert not run.stdout
