"""Requests of doubtful framing get one meaning: no byte of a body is ever taken for a request.

Each case ends with a plain request, whose answer is there if and only if the server found its
beginning where RFC 9112 says that it is.
"""

import re
import socket
import time

import pytest

from support import proxies
from support.servers import Server

LAST = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
INNER = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKS = b"4\r\nabcd\r\n0\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: %b\r\nContent-Length: %d\r\n"


def post(headers, body=b"", version=b"1.1"):
    start = b"POST /predict HTTP/%b\r\nHost: localhost\r\nContent-Type: image/png\r\n" % version
    return start + headers + b"\r\n" + body


def get(headers=b"", target=b"/v2/health/live", version=b"1.1", end=b"\r\n"):
    return b"GET %b HTTP/%b\r\nHost: localhost\r\n" % (target, version) + headers + end


# What is no image gets 415, and the connection goes on.
READ = {
    "a length": (post(b"Content-Length: 4\r\n", b"abcd"), [415]),
    "a length with spaces": (post(b"Content-Length:  4  \r\n", b"abcd"), [415]),
    "a length with zeros": (post(b"Content-Length: 0004\r\n", b"abcd"), [415]),
    "a body like a request": (post(b"Content-Length: %d\r\n" % len(INNER), INNER), [415]),
    "a GET with a body": (get(b"Content-Length: %d\r\n" % len(INNER)) + INNER, [200]),
    "chunks": (post(b"Transfer-Encoding: chunked\r\n", CHUNKS), [415]),
    "chunks, in capitals": (post(b"TRANSFER-ENCODING: CHUNKED\r\n", CHUNKS), [415]),
    "an extension of a chunk": (
        post(b"Transfer-Encoding: chunked\r\n", b"4;a=b\r\nabcd\r\n0\r\n\r\n"),
        [415],
    ),
    "trailers": (
        post(b"Transfer-Encoding: chunked\r\n", b"4\r\nabcd\r\n0\r\nX-Request-Id: a\r\n\r\n"),
        [415],
    ),
    "h2c": (post(UPGRADE % (b"h2c", len(INNER)), INNER), [415]),
    "a websocket": (post(UPGRADE % (b"websocket", len(INNER)), INNER), [415]),
    "an upgrade of chunks": (
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
        [415],
    ),
    "an upgrade without a body": (get(b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), [200]),
    "Expect": (post(b"Content-Length: 4\r\nExpect: 100-continue\r\n", b"abcd"), [100, 415]),
    "empty lines before": (b"\r\n\r\n" + get(), [200]),
    "three at once": (get() * 3, [200] * 3),
    "HEAD": (get().replace(b"GET", b"HEAD"), [200]),
    "OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    "two slashes": (get(target=b"//v2/health/live"), [404]),
    "dots": (get(target=b"/web/../../../etc/passwd"), [404]),
    "encoded dots": (get(target=b"/web/%2e%2e/%2e%2e/etc/passwd"), [404]),
    "an encoded NUL": (get(target=b"/v2/health%00/live"), [404]),
    "an empty length": (post(b"Content-Length: 0\r\n"), [400]),
}
REFUSED = {
    "a length after the body": post(
        b"Transfer-Encoding: chunked\r\n", b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n"
    ),
    "length and chunks": post(b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "chunks and length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", CHUNKS),
    "two lengths": post(b"Content-Length: 4\r\nContent-Length: 40\r\n", b"abcd"),
    "the same length twice": post(b"Content-Length: 4\r\nContent-Length: 4\r\n", b"abcd"),
    "a list of lengths": post(b"Content-Length: 4, 4\r\n", b"abcd"),
    "a sign": post(b"Content-Length: +4\r\n", b"abcd"),
    "a negative length": post(b"Content-Length: -4\r\n", b"abcd"),
    "a hexadecimal length": post(b"Content-Length: 0x4\r\n", b"abcd"),
    "no length": post(b"Content-Length:\r\n", b"abcd"),
    "a length beyond 64 bits": post(b"Content-Length: 18446744073709551620\r\n", b"abcd"),
    "a space before the colon": post(b"Content-Length : 4\r\n", b"abcd"),
    "another coding": post(b"Transfer-Encoding: xchunked\r\n", CHUNKS),
    "identity": post(b"Transfer-Encoding: identity\r\n", CHUNKS),
    "identity after chunks": post(b"Transfer-Encoding: chunked, identity\r\n", CHUNKS),
    "a vertical tab": post(b"Transfer-Encoding: \x0bchunked\r\n", CHUNKS),
    "a folded coding": post(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKS),
    "a folded line": get(b"X: a\r\n b\r\n"),
    "an extension with LF": post(b"Transfer-Encoding: chunked\r\n", b"4;\nxx\r\nabcd\r\n0\r\n\r\n"),
    "chunks with LF": post(b"Transfer-Encoding: chunked\r\n", b"4\nabcd\n0\n\n"),
    "a prefixed size": post(b"Transfer-Encoding: chunked\r\n", b"0x4\r\nabcd\r\n0\r\n\r\n"),
    "a huge size": post(b"Transfer-Encoding: chunked\r\n", b"F" * 17 + b"\r\nabcd\r\n0\r\n\r\n"),
    "a chunk too long": post(b"Transfer-Encoding: chunked\r\n", b"4\r\nabcdX0\r\n\r\n"),
    "LF": b"GET /v2/health/live HTTP/1.1\nHost: localhost\n\n",
    "CR": b"GET /v2/health/live HTTP/1.1\rHost: localhost\r\r",
    "LF in a value": post(b"Content-Length: 4\r\nX: a\nTransfer-Encoding: chunked\r\n", CHUNKS),
    "CR in a value": get(b"X: a\rContent-Length: 5\r\n"),
    "NUL in a value": get(b"X: a\0b\r\n"),
    "NUL in the path": get(target=b"/v2/health\0/live"),
    "a space in the path": get(target=b"/v2/health /live"),
    "no colon": get(b"nonsense\r\n"),
    "no name": get(b": a\r\n"),
    "a space in a name": get(b"X Y: a\r\n"),
    "a later version": get(version=b"9.9"),
    "no such version": get(version=b"1.2"),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "an unknown method": b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "small letters": b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel": b"CONNECT evil:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("framing"), workers=1) as started:
        yield started


@pytest.fixture(scope="module", params=["direct", "on", "off"])
def port(request, server, tmp_path_factory):
    """The server's port, or that of an nginx before it that collects bodies, or does not."""
    if request.param == "direct":
        yield server.port
        return
    folder = tmp_path_factory.mktemp("nginx")
    with proxies.nginx(folder, server.port, buffering=request.param) as front:
        yield front


def statuses(port, *packets):
    """The statuses of all answers until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        for number, packet in enumerate(packets):
            time.sleep(proxies.PAUSE_SECONDS if number else 0)
            wire.sendall(packet)
        answers = wire.makefile("rb").read()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@pytest.mark.parametrize(("raw", "expected"), READ.values(), ids=READ)
def test_a_request_is_read_to_its_end_and_no_further(raw, expected, server):
    assert statuses(server.port, raw + LAST) == [*expected, 200]


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_a_request_that_has_two_meanings_gets_one_answer(raw, server):
    assert statuses(server.port, raw + LAST) in ([400], [405])


@pytest.mark.parametrize("cut", [proxies.cut_nowhere, proxies.cut_after_head])
@pytest.mark.parametrize("name", ["h2c", "a websocket", "an upgrade of chunks"])
def test_a_request_in_the_body_of_an_upgrade_has_no_answer(name, cut, port):
    raw, expected = READ[name]
    for _ in range(5):  # nginx keeps its connections: an answer too many would be the next one's
        assert statuses(port, *cut(raw)[:-1], cut(raw)[-1] + LAST) == [*expected, 200]
        assert statuses(port, LAST) == [200]
