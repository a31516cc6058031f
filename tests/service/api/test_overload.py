"""Early rejection: whole responses on the connection itself, and only for plain requests."""

import asyncio
import gc
import itertools
import json
import re
import socket
import threading
import time
import weakref
from collections import Counter

import httpx
import pytest
from httptools import HttpParserError, HttpRequestParser
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.server import ServerState

from service.api.overload import parse
from service.schedule.pipeline import Pipeline
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers.connections import Connections
from service.workers.drain import Drain
from service.workers.protocol import REJECTION, Connection
from support import arrivals, load
from support.images import draw, encode
from support.servers import Server, eventually
from support.shelves import api_of

IMAGE, BIG = encode(draw(size=64)), encode(draw("red", 1_000, width=900))
MORE = 40  # connections than there are places
SECONDS, TRIES = 60, 1000  # until both answers were seen: a rejection takes a millisecond
POST = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
PATHS = {"/predict", "/explain"}
LENGTH = b"Content-Length: 5\r\n\r\n"


def whole(head, body):
    return [head + body]


def head_first(head, body):
    return [head, body]


def head_in_two(head, body):
    return [head[:20], head[20:] + body]


def body_in_two(head, body):
    return [head + body[:100], body[100:]]


def with_an_empty_line_before(head, body):
    return [b"\r\n" + head + body]


class Wire:
    """One connection, on which bytes are sent as they are given."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.answers = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.answers.close()
        self.socket.close()

    def send(self, pieces):
        for number, piece in enumerate(pieces):
            time.sleep(0.003 if number else 0)
            self.socket.sendall(piece)

    def answer(self):
        """The status, the headers and the body of the next answer."""
        status = int(self.answers.readline().split()[1])
        lines = iter(lambda: self.answers.readline().rstrip(), b"")
        headers = {
            name.lower(): value
            for name, _, value in (line.decode().partition(": ") for line in lines)
        }
        return status, headers, self.answers.read(int(headers["content-length"]))


def press(server, let_go):
    """Sends more requests than can be answered, until `let_go`."""
    raw = load.image("/predict", IMAGE, "png").raw()
    more = itertools.takewhile(lambda _: not let_go.is_set(), itertools.repeat(raw))
    connections = int(server.metric('candor_queue_limit{lane="predict"}')) + MORE
    arrivals.run(arrivals.closed_loop(server.port, more, connections, lambda _: None))


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A server that logs every request."""
    with Server(tmp_path_factory.mktemp("logged"), workers=1, access_log="true") as server:
        yield server


@pytest.fixture
def pressed(logged):
    """A server with more callers than its queue has places, while a test runs."""
    let_go = threading.Event()
    pressing = threading.Thread(target=press, args=(logged, let_go))
    pressing.start()
    try:
        yield logged
    finally:
        let_go.set()
        pressing.join(60)


def head_of(body, identity):
    return POST + f"X-Request-Id: {identity}\r\nContent-Length: {len(body)}\r\n\r\n".encode()


@pytest.mark.parametrize(
    "cut", [whole, head_first, head_in_two, body_in_two, with_an_empty_line_before]
)
@pytest.mark.parametrize("body", [IMAGE, BIG], ids=["small", "big"])
def test_under_pressure_every_request_on_a_connection_gets_its_own_whole_answer(cut, body, pressed):
    seen = Counter()
    with Wire(pressed.port) as wire:
        end = time.monotonic() + SECONDS
        for number in itertools.takewhile(lambda _: time.monotonic() < end, itertools.count()):
            identity = f"{cut.__name__}-{number}"
            wire.send(cut(head_of(body, identity), body))
            status, headers, answer = wire.answer()
            seen[status] += 1
            assert headers["x-request-id"] == identity
            if status == 200:
                assert json.loads(answer)["image"]["format"] == "PNG"
            else:
                assert (status, headers["content-type"]) == (429, "application/problem+json")
                assert int(headers["retry-after"]) >= 1
                assert json.loads(answer)["code"] == "too_many_requests"
            if min(seen[200], seen[429]) >= 2:
                return
    pytest.fail(f"both answers should have been seen: {seen}")


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(IMAGE), IMAGE),
            {200, 429},
        ),
        (b"GET /methods HTTP/1.1\r\nHost: localhost\r\n\r\n", {200}),
        (POST + b"Content-Length: x\r\n\r\n", {400}),
        (POST.replace(b"/predict", b"/predictions") + LENGTH + b"12345", {404}),
    ],
)
def test_a_request_that_is_not_plain_is_answered_under_pressure_too(raw, statuses, pressed):
    with Wire(pressed.port) as wire:
        for _ in range(10):
            wire.send([raw])
            status, headers, _ = wire.answer()
            assert status in statuses
            if headers.get("connection") == "close":
                break


def test_a_caller_that_wants_its_connection_closed_gets_that_under_pressure(pressed):
    with Wire(pressed.port) as wire:
        wire.send(
            [POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(IMAGE), IMAGE)]
        )
        status, headers, _ = wire.answer()
        assert status in {200, 429}
        assert headers["connection"] == "close"
        assert wire.answers.read() == b""


def test_a_body_that_comes_late_still_gets_its_answer(pressed):
    with Wire(pressed.port) as wire:
        for number in range(5):
            wire.send([head_of(IMAGE, f"late-{number}")])
            time.sleep(0.2)
            wire.send([IMAGE])
            status, headers, _ = wire.answer()
            assert status in {200, 429}
            assert headers["x-request-id"] == f"late-{number}"


def counted(server):
    """The metrics of rejections, and of all requests."""
    text = httpx.get(f"{server.url}/metrics").text
    series = (
        'candor_requests_total{code="429",route="/predict"}',
        'candor_rejected_total{lane="predict",reason="queue_full"}',
        'candor_request_duration_seconds_count{route="/predict"}',
    )
    found = (re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE) for name in series)
    return [float(one[1]) if one else 0.0 for one in found]


def test_every_rejection_is_counted_logged_and_has_an_id_of_its_own(logged):
    before, read = counted(logged), len(logged.log.read_bytes())
    raw = load.image("/predict", IMAGE, "png").raw()
    answers = arrivals.run(arrivals.together(logged.port, [raw] * 900))
    rejected = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    ids = {re.search(rb"(?i)\r\nx-request-id: (\S+)", answer.head)[1] for answer in answers}
    assert len(ids) == 900
    more = [after - value for value, after in zip(before, counted(logged), strict=True)]
    assert more == [len(rejected), len(rejected), 900]
    log = logged.log.read_bytes()[read:].decode()
    lines = re.findall(r"POST /predict (\d+) [\d.]+ ms \(request (\S+)\)", log)
    assert Counter(int(status) for status, _ in lines)[429] == len(rejected)
    assert len({identity for _, identity in lines}) == 900
    why = "outcome=rejected problem=too_many_requests reason=queue_full model=cifar10"
    assert len(re.findall(rf"\) {why} version=[0-9a-f]{{12}} ", log)) == len(rejected)


@pytest.mark.parametrize(
    ("head", "identity"),
    [
        (POST + LENGTH, b""),
        (POST.replace(b"/predict", b"/predict?top=3&map=both") + LENGTH, b""),
        (POST + b"Connection: keep-alive\r\n" + LENGTH, b""),
        (POST + b"x-request-id: Mine-1 \r\n" + LENGTH, b"Mine-1"),
        (POST + b"content-length:5\r\n\r\n", b""),
    ],
)
def test_a_plain_request_is_understood(head, identity):
    found = parse(head, PATHS)
    assert (found.path, found.request_id, found.size) == ("/predict", identity, len(head) + 5)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        POST,
        POST[:30],
        POST.replace(b"POST", b"GET") + LENGTH,
        POST.replace(b"/predict", b"/models") + LENGTH,
        POST.replace(b"/predict", b"/v1/name") + LENGTH,
        POST.replace(b"HTTP/1.1", b"HTTP/1.0") + LENGTH,
        POST + b"\r\n",
        POST + b"Content-Length: 5, 5\r\n\r\n",
        POST + b"Content-Length: 5\r\n" + LENGTH,
        POST + b"Content-Length: +5\r\n\r\n",
        POST + b"Content-Length : 5\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n" + LENGTH,
        POST + b"transfer-encoding : chunked\r\n" + LENGTH,
        POST + b"Expect: 100-continue\r\n" + LENGTH,
        POST + b"Connection: close\r\n" + LENGTH,
        POST + b"Connection: keep-alive\r\nConnection: close\r\n" + LENGTH,
        POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + LENGTH,
        POST + b"X-Long: a\r\n b\r\n" + LENGTH,
        POST + b"X: a\nTransfer-Encoding: chunked\r\n" + LENGTH,
        POST + b"X: a\rTransfer-Encoding: chunked\r\n" + LENGTH,
        POST + b"X: a\0b\r\n" + LENGTH,
        POST + b"nonsense\r\n" + LENGTH,
        POST + b"X Y: a\r\n" + LENGTH,
        POST + b": a\r\n" + LENGTH,
        POST + b"X: a\r\nX: b\r\n" + LENGTH,
        POST + b"Origin: https://example.com\r\n" + LENGTH,
    ],
)
def test_a_request_that_is_not_plain_is_left_to_the_server(head):
    assert parse(head, PATHS) is None


class Framing:
    """The requests that llhttp finds in a stream, as the server uses it: URL and body of each."""

    def __init__(self, stream):
        self.requests, self.refused = [], False
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(stream)
        except HttpParserError:
            self.refused = True

    def on_message_begin(self):
        self.url, self.body = b"", b""

    def on_url(self, url):
        self.url += url

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.requests.append((self.url, self.body))


NEXT = b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n"
ENDS = st.sampled_from(
    [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\n\t", b"\n\n", b"\0\r\n", b""]
)
NAMES = st.sampled_from(
    [b"Content-Length", b"content-length ", b"Transfer-Encoding", b"Connection", b"X", b"X Y", b""]
)
VALUES = st.sampled_from(
    [b"5", b"05", b"+5", b"5, 5", b"0x5", b"chunked", b"keep-alive", b"close", b"a\tb", b"a\x7f"]
) | st.binary(max_size=4)
LINES = st.builds(
    lambda name, colon, value, end: name + colon + value + end,
    NAMES,
    st.sampled_from([b": "] * 6 + [b":", b" :", b"", b":\t", b":\x0b"]),
    VALUES,
    ENDS,
)
TARGETS = st.sampled_from([b"/predict"] * 4 + [b"/predict?a=1", b"/predict?\x80", b"/predict#a"])


@settings(deadline=None, max_examples=400)
@given(TARGETS, ENDS, st.lists(LINES, max_size=4), st.booleans(), st.binary(max_size=3), st.data())
def test_what_is_understood_is_framed_as_the_server_frames_it(target, end, lines, usual, odd, data):
    head = b"POST " + target + b" HTTP/1.1" + end + b"".join(lines)
    head += LENGTH if usual else b"\r\n"
    place = data.draw(st.integers(0, len(head)))
    if odd and data.draw(st.booleans()):
        head = head[:place] + odd + head[place:]
    head = head[: head.find(b"\r\n\r\n") + 4]
    if found := parse(head, PATHS):
        framing = Framing(head + bytes(found.size - len(head)) + NEXT)
        assert not framing.refused
        (url, body), after = framing.requests
        assert url.partition(b"?")[0] == b"/predict"
        assert (len(head) + len(body), after) == (found.size, (b"/next", b""))


HOST = b"Host: localhost\r\n"
GUARDED = {
    "another host": (HOST, b"Host: evil.example\r\n", 400),
    "no host": (HOST, b"", 400),
    "two hosts": (HOST, HOST + HOST, 400),
    "a malformed host": (HOST, b"Host: local host\r\n", 400),
    "another site": (HOST, HOST + b"Sec-Fetch-Site: cross-site\r\n", 403),
    "the address": (HOST, b"Host: 127.0.0.1:1\r\n", 429),
}


@pytest.mark.parametrize(("old", "new", "expected"), GUARDED.values(), ids=GUARDED)
def test_under_pressure_the_guard_answers_what_it_answers_otherwise(old, new, expected, pressed):
    asked, seen = head_of(IMAGE, "asked").replace(old, new) + IMAGE, Counter()
    for _ in range(TRIES):
        with Wire(pressed.port) as wire:
            wire.send([head_of(IMAGE, "usual") + IMAGE])
            usual = wire.answer()[0]
            wire.send([asked])
            seen[wire.answer()[0]] += usual == 429
        if seen.total() >= 5 and seen[expected]:
            break
    assert seen[expected]
    assert set(seen) <= ({expected} if expected < 429 else {200, 429})


@pytest.mark.parametrize("line", [b"X: a\nY: b", b"X: a\rY: b", b"X: a\0b", b"nonsense", b"X Y: a"])
def test_a_head_that_the_server_refuses_is_refused_under_pressure_too(line, pressed):
    for _ in range(3):
        with Wire(pressed.port) as wire:
            wire.send([POST + line + b"\r\n" + LENGTH + b"12345"])
            status, headers, _ = wire.answer()
            assert (status, headers["connection"]) == (400, "close")


def test_a_connection_that_has_ended_leaves_no_garbage(embedded, engine):
    metrics = Metrics()
    pipeline, drain = (
        Pipeline(engine, Settings(), metrics),
        Drain(1.0, metrics.requests_in_flight, metrics.ready, Connections()),
    )
    api = api_of(pipeline, embedded, Settings(), drain)
    config, state, made = Config(api.app), ServerState(), []
    config.load()
    request = load.image("/predict", IMAGE, "png").raw()

    def protocol():
        new = Connection(config, state, {REJECTION: api.rejection}, asyncio.get_running_loop())
        made.append(weakref.ref(new))
        return new

    async def visit():
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        async with server:
            for requests in (0, 1, 2):
                reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                for _ in range(requests):
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200")
                    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
                writer.close()
            await eventually(lambda: not any(ref() for ref in made))

    gc.collect()
    gc.disable()
    try:
        asyncio.run(visit())
    finally:
        gc.enable()
        pipeline.close()
    assert len(made) == 3
