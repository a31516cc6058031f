"""The process: quick to start, small, torch-free, and nothing is lost when it is told to stop."""

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


def test_it_is_ready_quickly_stays_small_and_knows_no_torch(tmp_path):
    with Server(tmp_path) as server:
        assert server.seconds_to_ready < 15, (
            f"{server.seconds_to_ready:.1f} s"
        )  # 3 s when the machine has nothing else to do
        for _ in range(100):
            assert server.client.post("/predict", content=IMAGE, headers=PNG).status_code == 200
        for method in (
            "grad_cam",
            "integrated_gradients",
            "smooth_grad",
            "saliency",
            "input_x_gradient",
        ) * 20:
            assert (
                server.client.post(
                    f"/explain?method={method}", content=IMAGE, headers=PNG
                ).status_code
                == 200
            )
        worker = server.worker()
        assert memory_mib(worker) < 300, f"{memory_mib(worker):.0f} MiB"
        assert "libtorch" not in Path(f"/proc/{worker}/maps").read_text()
    assert server.process.returncode == 0
    assert "serving cifar10" in server.log.read_text()


def test_who_comes_to_a_full_lane_is_told_why_and_when_to_come_again(server):
    raw = load.image("/predict", IMAGE, "png").raw()
    answers = arrivals.run(arrivals.together(server.port, [raw] * 1500))
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert len(answers) == 1500
    for answer in refused:
        assert re.search(rb"(?i)\r\nretry-after: [1-9]", answer.head)
        assert json.loads(answer.body)["code"] == "too_many_requests"
        assert "queue is full (limit" in json.loads(answer.body)["detail"]


def test_the_service_imports_neither_torch_nor_training():
    code = "import sys, service.__main__, service.api, service.app, service.schedule.pipeline; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "'onnxruntime'" in loaded
    assert not {"'torch'", "'training'", "'captum'", "'torchvision'", "'onnx'"} & set(
        loaded.strip("[]\n").split(", ")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_has_begun_is_answered_when_it_is_told_to_stop(number, tmp_path):
    with Server(tmp_path) as server:
        answers = []

        def ask():
            answers.append(
                httpx.post(
                    f"{server.url}/explain?method=integrated_gradients&steps=512&deadline_ms=60000",
                    content=IMAGE,
                    headers=PNG,
                    timeout=60,
                )
            )

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
        assert not answers, "the request was over before the signal"
        server.process.send_signal(number)
        asking.join(60)
        assert server.process.wait(30) == 0
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].json()["explanation"]["parameters"]["steps"] == 512


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prot": "3000"}, "CANDOR_PROT is no setting of Candor: did you mean CANDOR_PORT?"),
        ({"port": "eighty"}, "CANDOR_PORT is 'eighty'; it must be a whole number from 1 to 65,535"),
        ({"device": "tpu"}, "CANDOR_DEVICE is 'tpu'; it must be one of auto, cpu, cuda, tensorrt"),
        ({"bundle": "/nowhere"}, "CANDOR_BUNDLE is '/nowhere'; it must be a folder that exists"),
        ({"bundle": "/tmp"}, "/tmp is no bundle"),
        ({"precision": "int4"}, "CANDOR_PRECISION is 'int4'; it must be one of float32, int8"),
        (
            {"precision": "int8", "device": "cuda"},
            "CANDOR_PRECISION is 'int8', for CPUs alone, and the device is cuda",
        ),
    ],
)
def test_a_bad_setting_stops_the_start_with_a_sentence(settings, told, tmp_path):
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
    assert told in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("path", ["/predict", "/v2/models/cifar10/infer"])
def test_who_leaves_while_sending_is_no_failure_of_the_service(tmp_path, path):
    with Server(tmp_path, workers=1) as server:
        caller = socket.create_connection(("127.0.0.1", server.port))
        caller.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\nabc".encode()
        )
        time.sleep(0.2)
        caller.close()
        route = path.replace("cifar10", "{name}")
        gone = f'candor_requests_total{{code="499",route="{route}"}} 1.0'
        end = time.monotonic() + 5
        while gone not in server.client.get("/metrics").text:
            assert time.monotonic() < end, server.client.get("/metrics").text
            time.sleep(0.05)
    assert "a defect" not in server.log.read_text()
