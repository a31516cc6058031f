"""Early rejection: a 429 written on the connection, before a request becomes a task.

Under overload most answers are rejections, and the time that one takes is taken from requests that
are served: 0.19 ms through the server, the middleware and back, a fifth of that here
(docs/benchmarks.md). Only plain requests are understood: POST to a path without parameters, one
Content-Length, a short head. All others are passed on, so that nothing is rejected here that
`service.api.app` would admit.
"""

import asyncio
import re
import time
from collections.abc import Callable, Collection
from functools import lru_cache
from http import HTTPStatus

from starlette.requests import Request

from service.api import problems
from service.api.middleware import REQUEST_ID, ObservationMiddleware
from service.api.sites import HEADERS
from service.errors import TooManyRequests
from service.schedule.pipeline import Pipeline
from service.workers.drain import Drain
from service.workers.protocol import RequestHead

REQUEST_LINE = re.compile(rb"POST (/[\w/]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n")
KEEP_ALIVE = re.compile(rb"\r\nconnection:[ \t]*keep-alive[ \t]*\r\n")
CALLERS_ID = re.compile(rb"(?i:\r\n" + REQUEST_ID + rb":)[ \t]*([!-~]*)[ \t]*\r\n")
# Other framings of the body, folded lines, and `origin`, which CORS answers with headers of its
# own.
UNSUPPORTED = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|origin|[ \t])")
CACHED_HEADS = 1_024  # the heads of one client differ in little but the length


class OverloadRejection:
    """Rejects requests that `pipeline` has no place for, and counts them as `observation` counts
    other responses. A request is left to the application if `admits` refuses its path and
    head.

    It is the `EarlyRejection` of `service.workers.protocol`, for POST to `paths`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        observation: ObservationMiddleware,
        drain: Drain,
        paths: Collection[str],
        admits: Callable[[str, bytes], bool],
    ) -> None:
        self._pipeline = pipeline
        self._observation = observation
        self._drain = drain
        self._parsed = lru_cache(CACHED_HEADS)(lambda head: parse(head, paths))
        self._admits = admits
        self._admitted = 0
        self._common: list[tuple[bytes, bytes]] | None = None
        self._common_lines = b""

    @property
    def active(self) -> bool:
        """True while predictions are backlogged; a worker that stops rejects in other words."""
        return self._pipeline.backlogged and not self._drain.stopping

    def head_of(self, head: bytes) -> RequestHead | None:
        """Parses a head; None unless it is plain, and has the key that its path needs."""
        parsed = self._parsed(head)
        return parsed if parsed is not None and self._admits(parsed.path, head) else None

    def response(self, head: RequestHead, common: list[tuple[bytes, bytes]]) -> bytes | None:
        """A counted 429 if the queue is full, else None; then the request has a place in this turn
        of the event loop.
        """
        started = time.perf_counter()
        if error := self._pipeline.rejection(ahead=self._admitted):
            lines, body = _response(head.path, error.detail, error.retry_after_seconds)
            request_id = _line((REQUEST_ID, self._observation.request_id(head.request_id)))
            self._observation.count(head.path, error.status, time.perf_counter() - started)
            return b"".join((lines, self._lines_of(common), request_id, b"\r\n", body))
        if not self._admitted:
            # All data that has arrived is read before the first of its requests becomes a task and
            # takes its place.
            asyncio.get_running_loop().call_soon(self._forget_admitted)
        self._admitted += 1
        return None

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
    lowered = head[:-2].lower()
    length = LENGTH.search(lowered)
    if length is None or lowered.count(b"content-length") != 1 or UNSUPPORTED.search(lowered):
        return None
    if b"\r\nconnection" in lowered and (
        lowered.count(b"\r\nconnection") != 1 or not KEEP_ALIVE.search(lowered)
    ):
        return None
    callers_id = CALLERS_ID.search(head[:-2])
    return RequestHead(path, callers_id[1] if callers_id else b"", len(head) + int(length[1]))


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
    return first + b"".join(map(_line, (*response.raw_headers, *HEADERS))), bytes(response.body)
