"""No dependency calls home: a server and sessions look up no name, open no connection beyond
loopback, and leave no file in the home folder of their user. Commands of training are watched
where they are tested (tests/training/export/test_bundle.py).
"""

import subprocess
import sys
import time

import pytest

from support.images import draw, encode
from support.servers import ROOT, Server
from support.watch import Watch

# ONNX Runtime 1.31 looked up its collector 10 s after the first session of a process.
WATCHED_SECONDS, CALL_SECONDS = 15, 120
ROOMS = ("service", "training", "benchmarks", "support")
IMPORTS = [f"import {room}" for room in ROOMS]
SESSION = (
    "import sys, time; exec(sys.argv[1]); from onnxruntime import InferenceSession;"
    "held = InferenceSession('service/model/predict.onnx', providers=['CPUExecutionProvider']);"
    "time.sleep(float(sys.argv[2]))"
)


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def session(watch, first, seconds):
    """A process that runs the line `first`, opens a session and sleeps."""
    command = watch.command(sys.executable, "-c", SESSION, first, seconds)
    return subprocess.Popen(command, cwd=ROOT, env=watch.environment())


def test_a_server_calls_nobody(watch, tmp_path):
    server = Server(tmp_path, watch.command(sys.executable, "-m", "service", "serve"), workers=2)
    server.environment = watch.environment(port=server.port, workers=2)
    with server:
        answer = server.client.post(
            "/explain", content=encode(draw()), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200
        time.sleep(WATCHED_SECONDS)
    assert watch.calls == []
    assert watch.files == []


def test_a_session_after_the_import_of_a_room_calls_nobody(tmp_path):
    watches = [Watch(tmp_path / room) for room in ROOMS]
    sessions = [session(*pair, 1) for pair in zip(watches, IMPORTS, strict=True)]  # at once
    assert [process.wait(200) for process in sessions] == [0] * len(ROOMS)
    assert [(watch.calls, watch.files) for watch in watches] == [([], [])] * len(ROOMS)


def test_the_watch_sees_a_dependency_that_calls(watch):
    with session(watch, "", CALL_SECONDS) as process:
        while process.poll() is None and not (watch.calls and watch.files):
            time.sleep(0.5)
        process.kill()
    assert watch.calls
    assert watch.files
