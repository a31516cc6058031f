"""As a pod runs it: nothing can be written but two folders, the user is a number without rights, and memory is limited."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.images import draw, encode
from support.servers import ROOT, Server, descendants

LIMIT_BYTES = 512 * 2**20
GROUPS = Path("/sys/fs/cgroup")
IMAGE = encode(draw(size=640, width=480))
PNG = {"content-type": "image/png"}


@pytest.fixture
def memory_group():
    """A control group with the limit, of whichever version this machine lets us make; None where it lets us make none."""
    for root, limit, members in (
        (GROUPS / "memory", "memory.limit_in_bytes", "cgroup.procs"),
        (GROUPS, "memory.max", "cgroup.procs"),
    ):
        folder = root / f"candor-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / limit).write_text(str(LIMIT_BYTES))
        except OSError:
            continue
        yield folder / members
        for _ in range(50):
            try:
                folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                break
        return
    yield None


def pod(home, members):
    """`python -m service serve` behind a read-only root, as user 1034 without rights, in the control group."""
    root = f"--ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --ro-bind {ROOT} {ROOT} --bind {home} {home} --chdir {ROOT}"
    inside = f"bwrap --unshare-user --uid 1034 --gid 1034 --cap-drop ALL {root} --die-with-parent".split()
    join = f"echo $$ > {members} && " if members else ""
    return ["sh", "-c", f'{join}exec "$@"', "sh", *inside, sys.executable, "-m", "service", "serve"]


def peak_bytes(pid):
    """The most resident memory that each process of a family has had, together."""
    texts = [Path(f"/proc/{one}/status").read_text() for one in descendants(pid)]
    return 1024 * sum(
        int(line.split()[1])
        for text in texts
        for line in text.splitlines()
        if line.startswith("VmHWM")
    )


@pytest.mark.skipif(
    not shutil.which("bwrap"), reason="bubblewrap, which makes the read-only root, is not installed"
)
def test_it_serves_and_explains_within_what_a_pod_has(memory_group, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with Server(tmp_path, command=pod(home, memory_group), workers=1, threads=2) as server:
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
        if memory_group:
            assert used["candor_memory_limit_bytes"] == LIMIT_BYTES
        assert peak_bytes(server.process.pid) < LIMIT_BYTES
        rights = {
            line.split()[1]
            for line in Path(f"/proc/{server.worker()}/status").read_text().splitlines()
            if line.startswith("CapEff")
        }
        assert rights == {"0000000000000000"}
        os.kill(descendants(server.process.pid)[0], signal.SIGTERM)  # bwrap would not pass it on
        assert server.process.wait(20) == 0


def test_the_sandbox_really_is_read_only(tmp_path):
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    command = pod(tmp_path, None)
    command[-3:] = ["-c", f"import os; print(os.getuid()); open({str(ROOT / 'x')!r}, 'w')"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, "Read-only file system" in done.stderr) == ("1034\n", True)
