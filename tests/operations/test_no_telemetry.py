"""No dependency calls home: a server and commands of training look up no name, open no connection
beyond loopback, and leave no file in the home folder of their user.
"""

import re
import shutil
import subprocess
import sys
import time

import pytest

from service import TELEMETRY_OFF
from support.images import draw, encode
from support.servers import ROOT, Server, environment

# ONNX Runtime 1.31 looked up its collector 10 s after the first session of a process.
WATCHED_SECONDS = 15
PORT = re.compile(r"port=htons\((\d+)\)")
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
SESSION = (
    "import sys, time; exec(sys.argv[1]); from onnxruntime import InferenceSession;"
    "held = InferenceSession('service/model/predict.onnx', providers=['CPUExecutionProvider']);"
    "time.sleep(float(sys.argv[2]))"
)


def away(line):
    port, address = PORT.search(line), ADDRESS.search(line)
    if port is None or address is None:
        return False
    return port[1] == "53" or not (address[1] or address[2]).startswith(("127.", "::1"))


class Watch:
    """The network calls of a command and of its children, and the files in their home folder."""

    def __init__(self, folder):
        if not shutil.which("strace"):
            pytest.skip("strace is not installed")
        self.home = folder / "user"
        self.home.mkdir()
        self._trace = folder / "strace.log"

    def command(self, *arguments):
        """The command, watched; strace is no parent of it, so that signals reach it."""
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        return ["strace", "-D", "-f", "-A", "-qq", "-e", calls, "-o", self._trace, *arguments]

    def environment(self, folder, **settings):
        """That of a user who has turned nothing off."""
        # matplotlib keeps a list of fonts, which reports nothing.
        own = {"HOME": str(self.home), "MPLCONFIGDIR": str(folder / "matplotlib")}
        given = environment(folder, **settings) | own
        caches = {name for name in given if name.startswith("XDG_")}
        return {name: given[name] for name in given.keys() - TELEMETRY_OFF.keys() - caches}

    def run(self, folder, *arguments):
        command = self.command(sys.executable, *map(str, arguments))
        environment = self.environment(folder)
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=200)

    @property
    def calls(self):
        """The calls of name servers, and of any address beyond loopback."""
        return [line for line in self._trace.read_text(errors="replace").splitlines() if away(line)]

    @property
    def files(self):
        return [path for path in self.home.rglob("*") if path.is_file()]


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def test_a_server_calls_nobody(watch, tmp_path):
    server = Server(tmp_path, watch.command(sys.executable, "-m", "service", "serve"), workers=2)
    server.environment = watch.environment(tmp_path / "bentoml", port=server.port, workers=2)
    with server:
        answer = server.client.post(
            "/explain", content=encode(draw()), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200
        time.sleep(WATCHED_SECONDS)
    assert watch.calls == []
    assert watch.files == []


def test_commands_of_training_calls_nobody(watch, tmp_path, drawn):
    run, size = tmp_path / "run", ["--epochs", "1", "--held-out", "20"]
    fit = ["fit", "--data", drawn, "--out", run, "--network", "seed_cnn", "--device", "cpu", *size]
    watch.run(tmp_path, "-m", "training", *fit)
    watch.run(tmp_path, "-m", "training", "bundle", "--run", run, "--out", tmp_path / "bundle")
    assert watch.calls == []
    assert watch.files == []


@pytest.mark.parametrize("room", ["service", "training", "benchmarks", "support"])
def test_a_session_after_the_import_of_a_room_calls_nobody(watch, tmp_path, room):
    watch.run(tmp_path, "-c", SESSION, f"import {room}", 1)
    assert watch.calls == []
    assert watch.files == []


def test_the_watch_sees_a_dependency_that_calls(watch, tmp_path):
    watch.run(tmp_path, "-c", SESSION, "", WATCHED_SECONDS)
    assert watch.calls
    assert watch.files
