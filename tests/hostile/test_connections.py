"""Connections alone cost nobody else the service: they are bounded in number, bytes and time.

Every limit holds with the access log on.
"""

import json
import resource
import selectors
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import httpx
import pytest

from service.workers.connections import SPARE_FILES
from support.images import draw, encode
from support.servers import ROOT, Server, descendants

IMAGE = encode(draw(size=64))
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
MEBIBYTE = 2**20
CALLERS = 2_000
KINDS = {
    "silent": (b"", b""),
    "slow": (GET[:-2], b"x: y\r\n"),
    # The type is missing: the answer comes before the body.
    "after an early answer": (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n",
        b"x",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server"), workers=1, access_log="true") as started:
        yield started


@pytest.fixture(autouse=True)
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3 * CALLERS:
        pytest.skip(f"the kernel forbids more than {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def resident_bytes(server):
    """The memory of all processes of a server."""
    pages = [
        int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        for pid in descendants(server.process.pid)
    ]
    return sum(pages) * resource.getpagesize()


def probe(server):
    """The seconds until a new caller has a prediction and a probe is answered."""
    started = time.monotonic()
    for _ in range(2):
        assert httpx.get(f"{server.url}/readyz", timeout=10).status_code == 200
        answer = httpx.post(
            f"{server.url}/predict", content=IMAGE, headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200
    return time.monotonic() - started


class Crowd:
    """Connections that are opened, send now and then, and are watched until they end."""

    def __init__(self, server, count, first):
        self._selector = selectors.DefaultSelector()
        self.open, self.port = set(), server.port
        for _ in range(count):
            wire = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            wire.sendall(first)
            wire.setblocking(False)
            self.open.add(wire)
            self._selector.register(wire, selectors.EVENT_READ)

    def watch(self):
        """Forgets the connections that have ended."""
        for key, _ in self._selector.select(0.2):
            try:
                ended = not key.fileobj.recv(4096)
            except BlockingIOError:
                ended = False
            except OSError:
                ended = True
            if ended:
                self._leave(key.fileobj)

    def send(self, more):
        """Sends `more` on each connection."""
        for wire in list(self.open):
            try:
                wire.send(more)
            except BlockingIOError:
                pass
            except OSError:
                self._leave(wire)

    def close(self):
        for wire in list(self.open):
            self._leave(wire)
        self._selector.close()

    def _leave(self, wire):
        self._selector.unregister(wire)
        self.open.discard(wire)
        wire.close()


@pytest.mark.parametrize(
    ("kinds", "count"),
    [pytest.param(KINDS, CALLERS // 3, id="all")]
    + [pytest.param([kind], CALLERS, id=kind, marks=pytest.mark.benchmark) for kind in KINDS],
)
def test_two_thousand_callers_end_within_40_seconds_and_cost_others_nothing(kinds, count, server):
    probe(server)
    before, started = resident_bytes(server), time.monotonic()
    crowds = [(Crowd(server, count, KINDS[kind][0]), KINDS[kind][1]) for kind in kinds]
    try:
        opened, grown, next_send = time.monotonic(), 0, 0.0
        while any(crowd.open for crowd, _ in crowds) and time.monotonic() < opened + 60:
            for crowd, _ in crowds:
                crowd.watch()
            if time.monotonic() > next_send:
                probe(server)
                grown = max(grown, resident_bytes(server) - before)
                for crowd, more in crowds:
                    crowd.send(more)
                next_send = time.monotonic() + 4
        ended = time.monotonic() - opened
        print(f"opened in {opened - started:.1f} s, ended in {ended:.1f} s, +{grown >> 20} MiB")  # noqa: T201
        assert not any(crowd.open for crowd, _ in crowds)
        assert ended < 40
        assert grown < 50 * MEBIBYTE
    finally:
        for crowd, _ in crowds:
            crowd.close()
    assert server.client.get("/livez").status_code == 200


ENDLESS = {
    "lines": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x-a: b\r\n" * 8_192),
    "value": (b"GET / HTTP/1.1\r\nHost: localhost\r\nx-a: ", b"a" * 65_536),
    "url": (b"GET /", b"a" * 65_536),
    "trailers": (
        PREDICT + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        b"x-a: b\r\n" * 8_192,
    ),
}


@pytest.mark.parametrize(("first", "piece"), ENDLESS.values(), ids=ENDLESS)
def test_a_head_of_100_mb_is_refused_after_32_kib(first, piece, server):
    before, sent = resident_bytes(server), 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
        wire.sendall(first)
        try:
            while sent < 100_000_000:
                wire.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
        assert sent < 20_000_000
    assert resident_bytes(server) - before < 20 * MEBIBYTE
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
        wire.sendall(first + piece)
        head, _, body = wire.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
    assert b"connection: close" in head
    assert json.loads(body)["code"] == "head_too_large"
    probe(server)


def test_six_hundred_callers_of_a_service_with_256_files_end_the_oldest_idle_ones(tmp_path):
    command = 'ulimit -n 256; exec "$0" -m service serve'
    server = Server(tmp_path, workers=2)
    server._command = ["bash", "-c", command, str(ROOT / ".venv/bin/python")]
    with server:
        probe(server)
        crowd = Crowd(server, 600, b"")
        started = time.monotonic()
        try:
            while time.monotonic() < started + 5:
                probe(server)
                crowd.watch()
            assert len(crowd.open) <= 2 * (256 - SPARE_FILES)
            assert server.metric('candor_connections_closed_total{reason="limit"}') > 200
            while crowd.open and time.monotonic() < started + 40:
                crowd.watch()
            assert not crowd.open
        finally:
            crowd.close()
        assert "no connection can be accepted" not in server.log.read_text()


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    """A server that limits the connections of an address, and their age."""
    limits = {"max_connections_per_address": 4, "connection_seconds": 2}
    with Server(tmp_path_factory.mktemp("limited"), workers=1, **limits) as running:
        yield running


def test_an_address_has_at_most_so_many_connections(limited):
    crowd = Crowd(limited, 20, b"")
    try:
        end = time.monotonic() + 5
        while len(crowd.open) > 4 and time.monotonic() < end:
            crowd.watch()
        assert len(crowd.open) <= 4
        assert limited.metric('candor_connections_closed_total{reason="address"}') >= 16
    finally:
        crowd.close()


def test_a_connection_ends_with_an_answer_when_it_is_old(limited):
    started = time.monotonic()
    with httpx.Client(base_url=limited.url) as client:
        while client.get("/livez").headers.get("connection") != "close":
            time.sleep(0.1)
    assert 1.7 < time.monotonic() - started < 6


@pytest.mark.parametrize("path", ["/predict", "/explain", "/v1/models/cifar10:predict", "/methods"])
def test_urllib_reads_the_answer_to_a_body_that_is_too_large(path, server):
    request = urllib.request.Request(
        server.url + path, data=bytes(11 * MEBIBYTE), headers={"Content-Type": "image/png"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as error:
        assert error.code == (405 if path == "/methods" else 413)
        assert error.read()


def test_bytes_that_are_no_request_have_one_line_and_a_metric(server):
    name = "candor_bad_requests_total"
    before = server.metric(name)
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
            wire.sendall(b"nonsense\r\n\r\n")
            assert wire.makefile("rb").read().startswith(b"HTTP/1.1 400 Bad Request")
    assert server.metric(name) == before + 50
    log = server.log.read_text()
    assert log.count("invalid HTTP requests received") == 1
    assert "Invalid HTTP request received." not in log
