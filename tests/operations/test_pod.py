"""The service as a pod runs it: on a read-only root, without rights, in limited memory."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.groups import memory_group, peak_bytes
from support.images import draw, encode
from support.servers import ROOT, Server, descendants

LIMIT_BYTES = 512 * 2**20
IMAGE = encode(draw(size=640, width=480))
PNG = {"content-type": "image/png"}


@pytest.fixture
def group():
    """A control group with the limit; None where this machine allows none."""
    with memory_group(LIMIT_BYTES) as made:
        yield made


def pod(home, group):
    """The command of the service behind a read-only root, as user 1034, in the control group."""
    writable = f"--dev /dev --proc /proc --tmpfs /tmp --bind {home} {home}"
    root = f"--ro-bind / / {writable} --ro-bind {ROOT} {ROOT} --chdir {ROOT}"
    user = "--unshare-user --uid 1034 --gid 1034 --cap-drop ALL --die-with-parent"
    # A process that measures coverage would write beside the code.
    inside = f"bwrap {user} {root} --unsetenv COVERAGE_PROCESS_CONFIG".split()
    command = [*inside, sys.executable, "-m", "service", "serve"]
    return group.command(*command) if group else command


@pytest.fixture(autouse=True)
def _namespaces():
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap, which makes the read-only root, is not installed")
    done = subprocess.run(
        ["bwrap", "--unshare-user", "--uid", "1034", "--ro-bind", "/", "/", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this kernel forbids namespaces: {done.stderr.strip()}")


def test_it_serves_and_explains_within_the_limits_of_a_pod(group, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    settings = {"workers": 1, "threads": 2, "host": "0.0.0.0", "open": "true"}  # noqa: S104
    with Server(tmp_path, command=pod(home, group), **settings) as server:
        anyone = {"host": "candor.example"}
        assert server.client.get("/model", headers=anyone).status_code == 200
        for _ in range(50):
            assert server.client.post("/predict", content=IMAGE, headers=PNG).status_code == 200
        for method in [entry["name"] for entry in server.client.get("/methods").json()["methods"]]:
            answer = server.client.post(
                f"/explain?method={method}&legend=true", content=IMAGE, headers=PNG
            )
            assert answer.status_code == 200, (method, answer.text)
        used = {
            line.split()[0]: float(line.split()[1])
            for line in server.client.get("/metrics").text.splitlines()
            if line.startswith("candor_memory")
        }
        assert used["candor_memory_bytes"] < LIMIT_BYTES
        if group:
            assert used["candor_memory_limit_bytes"] == LIMIT_BYTES
        assert peak_bytes(server.process.pid) < LIMIT_BYTES
        rights = {
            line.split()[1]
            for line in Path(f"/proc/{server.worker()}/status").read_text().splitlines()
            if line.startswith("CapEff")
        }
        assert rights == {"0000000000000000"}
        # bwrap does not pass signals on.
        os.kill(descendants(server.process.pid)[0], signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_the_sandbox_really_is_read_only(tmp_path):
    command = pod(tmp_path, None)
    command[-3:] = ["-c", f"import os; print(os.getuid()); open({str(ROOT / 'x')!r}, 'w')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, "Read-only file system" in done.stderr) == ("1034\n", True)
