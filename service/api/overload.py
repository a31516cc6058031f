"""Early rejection: a 429 written on the connection, before a request becomes a task.

Under overload most answers are rejections, and the time that one takes is taken from requests that
are served: 0.19 ms through the server, the middleware and back, a fifth of that here
(docs/benchmarks.md). Only plain requests are understood: POST to a path without parameters, one
Content-Length, a short head, accepted by the parser of the server and by its guard. All others are
passed on, so that nothing is rejected here that `service.api.app` would admit or answer otherwise,
and nothing is framed here in another way than there.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from http import HTTPStatus

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.requests import Request
from starlette.types import Scope

from service.api import problems
from service.api.middleware import REQUEST_ID, ObservationMiddleware
from service.errors import RequestError, TooManyRequests
from service.schedule.pipeline import Pipeline
from service.telemetry.account import Account
from service.workers.drain import Drain
from service.workers.protocol import RequestHead

REQUEST_LINE = re.compile(rb"POST (/[\w/]*)(?:\?([!-~]*))? HTTP/1\.1\r\n")
LENGTH = re.compile(rb"[0-9]{1,12}")
FOLDED = re.compile(rb"\r\n[ \t]")
# Other framings of the body, and `origin`, which CORS answers with headers of its own.
UNSUPPORTED = {b"transfer-encoding", b"expect", b"upgrade", b"origin"}
Server = tuple[str, int | None] | None  # the address that a connection has reached
CACHED_HEADS = 1_024  # the heads of one client differ in little but the length


class OverloadRejection:
    """Rejects requests that the present `pipeline` has no place for, and counts them as
    `observation` counts other responses. What `refusal` has a reason against is left to the
    application, which answers with that reason.

    It is the `EarlyRejection` of `service.workers.protocol`, for POST to `paths`.
    """

    def __init__(
        self,
        pipeline: Callable[[], Pipeline],
        observation: ObservationMiddleware,
        drain: Drain,
        paths: Collection[str],
        refusal: Callable[[Scope], RequestError | None],
    ) -> None:
        self._pipeline = pipeline
        self._observation = observation
        self._drain = drain
        self._parsed = lru_cache(CACHED_HEADS)(lambda head: parse(head, paths))
        self._refusal = refusal
        self._admitted = 0
        self._common: list[tuple[bytes, bytes]] | None = None
        self._common_lines = b""

    @property
    def active(self) -> bool:
        """True while predictions are backlogged; a worker that stops rejects in other words."""
        return self._pipeline().backlogged and not self._drain.stopping

    def head_of(self, head: bytes, server: Server) -> RequestHead | None:
        """Parses a head; None unless it is plain, and the application would want its body."""
        parsed = self._parsed(head)
        if parsed is None or self._refusal(_scope(parsed, server)) is not None:
            return None
        return parsed

    def response(self, head: RequestHead, common: list[tuple[bytes, bytes]]) -> bytes | None:
        """A counted 429 if the queue is full, else None; then the request has a place in this turn
        of the event loop.
        """
        started = time.perf_counter()
        if error := self._pipeline().rejection(ahead=self._admitted):
            lines, body = _response(head.path, error.detail, error.retry_after_seconds)
            request_id = self._observation.request_id(head.request_id)
            seconds = time.perf_counter() - started
            noted = self._account(head, error, len(body))
            self._observation.count_early(head, error.status, seconds, request_id, noted)
            return b"".join(
                (lines, self._lines_of(common), _line((REQUEST_ID, request_id)), b"\r\n", body)
            )
        if not self._admitted:
            # All data that has arrived is read before the first of its requests becomes a task and
            # takes its place.
            asyncio.get_running_loop().call_soon(self._forget_admitted)
        self._admitted += 1
        return None

    def _account(self, head: RequestHead, error: RequestError, bytes_out: int) -> Account | None:
        """The account of a rejection, where one is kept."""
        if not self._observation.keeps_accounts:
            return None
        noted = Account(bytes_in=head.body_bytes, bytes_out=bytes_out)
        noted.fail(error)
        self._pipeline().sign(noted)
        return noted

    def _lines_of(self, common: list[tuple[bytes, bytes]]) -> bytes:
        if common is not self._common:  # uvicorn makes a new list every second, for the date
            self._common, self._common_lines = common, b"".join(map(_line, common))
        return self._common_lines

    def _forget_admitted(self) -> None:
        self._admitted = 0


def parse(head: bytes, paths: Collection[str]) -> RequestHead | None:
    """Parses a head, up to its empty line; None unless it is a plain POST to one of `paths`."""
    line = REQUEST_LINE.match(head)
    if line is None or (path := line[1].decode()) not in paths:
        return None
    headers = _headers(head)
    values = {name: value.rstrip(b" \t") for name, value in headers}
    length = values.get(b"content-length", b"")
    if len(values) != len(headers) or not LENGTH.fullmatch(length) or UNSUPPORTED & values.keys():
        return None
    if values.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return RequestHead(
        path, line[2] or b"", tuple(headers), values.get(REQUEST_ID, b""), len(head), int(length)
    )


def _scope(head: RequestHead, server: Server) -> Scope:
    """The parts of an ASGI scope that decide whether a request is answered."""
    return {
        "http_version": "1.1",
        "method": "POST",
        "path": head.path,
        "query_string": head.query,
        "headers": head.headers,
        "server": server,
    }


class _Headers(list[tuple[bytes, bytes]]):
    """The headers of one head, with names in lower case, as llhttp calls them out."""

    complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def _headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of `head`; none unless the server's parser finds its end where it ends."""
    found = _Headers()
    parser = HttpRequestParser(found)
    try:
        parser.feed_data(head[:-1])
        early = found.complete
        parser.feed_data(head[-1:])
    except (HttpParserError, HttpParserUpgrade):
        return []
    return found if found.complete and not early and not FOLDED.search(head) else []


def _line(header: tuple[bytes, bytes]) -> bytes:
    return b"%b: %b\r\n" % header


@lru_cache(maxsize=64)
def _response(path: str, detail: str, seconds: int) -> tuple[bytes, bytes]:
    """A rejection: the status line with the headers that never change, and the body."""
    response = problems.respond(
        Request({"type": "http", "path": path}), TooManyRequests(detail, seconds)
    )
    status = HTTPStatus(response.status_code)
    first = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return first + b"".join(map(_line, (*response.raw_headers, *problems.HEADERS))), bytes(
        response.body
    )
