"""What a pod of the service must do, each a function that asserts it and says what it saw."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from support import exhaustion
from support.podman import Pod
from support.servers import ROOT

IMAGE = (ROOT / "docs" / "images" / "red-ball.jpg").read_bytes()
JPEG = {"content-type": "image/jpeg"}
USER = "1034"  # of the manifests
QUICK, THOROUGH = "grad_cam", "integrated_gradients"
KILLED = 128 + signal.SIGKILL
PROBE_SECONDS = 1.0  # between two questions for life during an attempt
LONG = "/explain?method=integrated_gradients&steps=512&deadline_ms=60000&quality=full"


def has_no_rights(pod: Pod) -> str:
    """Every process is user 1034 without capabilities, under seccomp; the root is read-only."""
    for pid in pod.processes():
        text = Path(f"/proc/{pid}/status").read_text()
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        assert set(status["Uid"].split() + status["Gid"].split()) == {USER}, status["Uid"]
        rights = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert rights == {f"{0:016x}"}, rights
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), "a filter of system calls"
    for place in ("/", "/usr", "$BENTO_PATH/src/service"):
        done = pod.shell(f"touch {place}/x")
        assert "Read-only file system" in done.stderr, done.stderr
    for volume in pod.spec["volumes"]:
        if "emptyDir" in volume:
            (mount,) = [
                each["mountPath"]
                for each in pod.spec["containers"][0]["volumeMounts"]
                if each["name"] == volume["name"]
            ]
            assert pod.shell(f"touch {mount}/x && rm {mount}/x").returncode == 0, mount
    return f"{len(pod.processes())} processes, user {USER}, no capability, read-only root"


def knows_its_memory(pod: Pod) -> str:
    """The kernel limits its memory to what the manifest says, and it has read that."""
    written = pod.spec["containers"][0]["resources"]["limits"]["memory"]
    wanted = int(written.removesuffix("Gi")) * 2**30
    assert pod.group().limit_bytes() == wanted
    assert metric(pod, "candor_memory_limit_bytes") == wanted
    return f"{written}, {metric(pod, 'candor_memory_bytes') / 2**20:.0f} MiB used"


def predicts(pod: Pod) -> str:
    """It answers a photograph."""
    answer = pod.client.post("/predict", content=IMAGE, headers=JPEG)
    assert answer.status_code == httpx.codes.OK, answer.text
    best = answer.json()
    return f"{best['model']['name']}: {best['label']} {best['probability']:.2f}"


def explains(pod: Pod) -> str:
    """It answers with a map of a quick method and of a thorough one, and with an overlay."""
    for method in QUICK, THOROUGH:
        answer = pod.client.post(f"/explain?method={method}", content=IMAGE, headers=JPEG)
        assert answer.status_code == httpx.codes.OK, (method, answer.text)
        assert answer.json()["explanation"]["method"] == method
    wanted = {**JPEG, "accept": "image/png"}
    overlay = pod.client.post(f"/explain?method={QUICK}", content=IMAGE, headers=wanted)
    assert overlay.content.startswith(b"\x89PNG"), overlay.text
    return f"{QUICK}, {THOROUGH}, an overlay"


def explains_by_every_method(pod: Pod) -> str:
    """It answers with a map of every method that it lists."""
    methods = [each["name"] for each in pod.client.get("/methods").json()["methods"]]
    for method in methods:
        answer = pod.client.post(f"/explain?method={method}", content=IMAGE, headers=JPEG)
        assert answer.status_code == httpx.codes.OK, (method, answer.text)
    return f"{len(methods)} methods"


def survives_large_images_and_slow_bodies(pod: Pod) -> str:
    """Images of up to 50 million pixels and 60 bodies of 10 MiB held open are answered, rejected
    with 413 or 429, or wait; the probes go on, and the kernel kills nothing.
    """
    before, group = pod.state(), pod.group()
    kills = group.kills()
    budget = metric(pod, 'candor_budget_limit_bytes{budget="images"}')
    with _alive(pod) as seen:
        images = exhaustion.send_large_images(pod.url("http"), budget)
        host, _, port = pod.url("http").removeprefix("http://").partition(":")
        with exhaustion.bodies_held_open((host, int(port))) as bodies:
            pass
        predicts(pod)
    assert set(images) == {200, 413} or set(images) == {200, 413, 429}, images
    assert set(bodies) == {b"", b"HTTP/1.1 429"}, bodies
    assert seen, "nobody asked for life"
    assert all(seen), f"{seen.count(False)} of {len(seen)} questions for life had no answer"
    after = pod.state()
    assert (after["Pid"], after["OOMKilled"], group.kills()) == (before["Pid"], False, kills)
    counts = ", ".join(f"{count} × {status}" for status, count in sorted(images.items()))
    rejected = bodies[b"HTTP/1.1 429"]
    peak = group.peak_bytes() / 2**20
    return f"images {counts}; bodies {rejected} × 429, {bodies[b'']} wait; peak {peak:.0f} MiB"


def has_a_limit_that_kills(pod: Pod) -> str:
    """A process beside the service that takes twice the limit is killed; the service lives on."""
    group, before = pod.group(), pod.state()["Pid"]
    kills, limit = group.kills(), group.limit_bytes()
    done = pod.shell(f"python -c 'b\"x\" * {2 * limit}'")
    assert done.returncode == KILLED, (done.returncode, done.stderr)
    assert group.kills() == kills + 1
    assert pod.state()["Pid"] == before
    predicts(pod)
    return "a process of twice its limit was killed, the service was not"


@contextmanager
def _alive(pod: Pod) -> Iterator[list[bool]]:
    """Asks the liveness probe again and again; gives what it found."""
    seen, ended = list[bool](), threading.Event()

    def ask() -> None:
        while not ended.wait(PROBE_SECONDS):
            seen.append(pod.probe("liveness"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def stops(pod: Pod) -> str:
    """After SIGTERM it answers what it has begun and ends with status 0."""
    answers = list[httpx.Response]()

    def send() -> None:
        answers.append(httpx.post(pod.url("http") + LONG, content=IMAGE, headers=JPEG, timeout=60))

    thread = threading.Thread(target=send)
    thread.start()
    end = time.monotonic() + 10
    while not metric(pod, "candor_requests_in_flight"):
        assert time.monotonic() < end, "no request is under way"
    began = time.monotonic()
    status = pod.stop()
    seconds = time.monotonic() - began
    thread.join()
    assert status == 0, pod.log()[-2000:]
    (answer,) = answers
    assert answer.status_code == httpx.codes.OK, answer.text
    return f"status 0 after {seconds:.1f} s, the request under way answered"


def writes_json(pod: Pod) -> str:
    """Every line of its log is an object."""
    lines = pod.log().splitlines()
    assert lines
    for line in lines:
        assert isinstance(json.loads(line), dict), line
    return f"{len(lines)} lines"


def metric(pod: Pod, name: str) -> float:
    """The value of a metric, labels included."""
    port = "admin" if any(each["name"] == "admin" for each in pod.ports) else "http"
    text = httpx.get(f"{pod.url(port)}/metrics", timeout=10).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))
