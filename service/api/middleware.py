"""Pure ASGI middleware around the API: `ObservationMiddleware` outside, `DrainMiddleware` inside.

Requests are counted and timed by the template of their route, never by their path: the number of
time series is bounded.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.access import guard, sites
from service.api.access.keys import Key
from service.errors import Unavailable
from service.telemetry import account, logs
from service.telemetry.account import Account, agent_of
from service.telemetry.metrics import Metrics
from service.workers.drain import Drain
from service.workers.protocol import RequestHead

if TYPE_CHECKING:
    from service.telemetry.tracing import TracingMiddleware  # an extra

UNKNOWN = "unknown"  # the template of a path that no route serves
PROBES = (
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
)
ALIVE = ("/metrics", "/v2/health/live")  # are answered until the worker ends
REQUEST_ID, SANE = b"x-request-id", re.compile(rb"[\w.:/+=@-]{1,128}")
AGENT = b"user-agent"

log = logging.getLogger("candor.access")


class ObservationMiddleware:
    """Gives requests an id, and counts and times them by the `paths` of the API, as templates.

    Every response has an `X-Request-Id`: the caller's if it is sane, or one that no other request
    of any worker has. Probes, scrapes and the files of the page are no traffic and not counted.
    Those of more than `slow_seconds` count as slow. With `access_log`, every counted one is logged.
    Its account is kept for that, or for a trace.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Iterable[str],
        *,
        slow_seconds: float,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self._slow_seconds = slow_seconds
        self._access_log = access_log
        self._exemplars = metrics.exemplars
        self.tracing: "TracingMiddleware | None" = None  # of rejections that have no task
        self._requests = cache(
            lambda template, status: metrics.requests.labels(template, str(status))
        )
        self._key_requests = cache(
            lambda name, status: metrics.key_requests.labels(name, str(status))
        )
        templates = [*(path for path in paths if path not in PROBES), UNKNOWN]
        self._seconds = {
            template: metrics.request_seconds.labels(template) for template in templates
        }
        # From the start, so that no slow request is a 0 and not a series that is missing.
        self._slow = {template: metrics.slow_requests.labels(template) for template in templates}
        prefix = secrets.token_hex(6)
        self._new_ids = (f"{prefix}-{number}".encode() for number in itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, and observes the status and the end of the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        noted = self._begin(scope.get(account.SCOPE))
        request_id = self.request_id(
            next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        )
        logs.request_id.set(request_id.decode())

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *sites.safe(message.get("headers", ())),
                    (REQUEST_ID, request_id),
                ]
            elif noted is not None:
                noted.bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, _counted(receive, noted), send_with_id)
        finally:
            # Starlette's router sets "route" to the one that matched.
            template = getattr(scope.get("route"), "path", UNKNOWN)
            if template in self._seconds:
                self._observe(scope, template, status, time.perf_counter() - started, noted)

    def _observe(
        self, scope: Scope, template: str, status: int, seconds: float, noted: Account | None
    ) -> None:
        """Counts and logs an answered request, and completes its account."""
        key = scope.get(guard.KEY)
        if noted is not None:
            _complete(noted, template, status, key)
            noted.agent = agent_of(dict(scope["headers"]).get(AGENT, b""))
        self._count_of(key, template, status, seconds)
        if self._access_log:
            # As it was sent: the decoded path may hold line breaks.
            path = scope["raw_path"].decode("ascii", "replace")
            _log(scope["method"], path, template, status, seconds, noted)

    def request_id(self, given: bytes) -> bytes:
        """The id of a request: the one `given` by its caller if it is sane, else a new one."""
        return given if given and SANE.fullmatch(given) else next(self._new_ids)

    @property
    def keeps_accounts(self) -> bool:
        """True if a rejection before a task would be logged or traced now."""
        return self._access_log or (self.tracing is not None and self.tracing.traces_early)

    def count_early(
        self,
        head: RequestHead,
        status: int,
        seconds: float,
        request_id: bytes,
        noted: Account | None,
    ) -> None:
        """Counts a response to a POST that was given before a task existed; logs and traces it, if
        it has an account.
        """
        if noted is None:
            self.count(head.path, status, seconds)
            return
        noted.agent = agent_of(dict(head.headers).get(AGENT, b""))
        _complete(noted, head.path, status, None)
        tokens = logs.request_id.set(request_id.decode()), account.current.set(noted)
        if self.tracing is not None:
            self.tracing.trace_early(head, noted, seconds)
        self.count(head.path, status, seconds)
        if self._access_log:
            _log("POST", head.path, head.path, status, seconds, noted)
        logs.request_id.reset(tokens[0])
        account.current.reset(tokens[1])

    def count_call(self, key: Key | None, method: str, status: int, seconds: float) -> None:
        """Counts and logs a call of gRPC, which is a POST to the path of its method."""
        noted = account.current.get()
        if noted is not None:
            _complete(noted, method, status, key)
        self._count_of(key, method, status, seconds)
        if self._access_log:
            _log("POST", method, method, status, seconds, noted)

    def begin_call(self) -> Account | None:
        """The account of a call of gRPC that begins, if one is kept."""
        return self._begin(None)

    def _begin(self, traced: Account | None) -> Account | None:
        """The account of a request that begins: that of its trace, or a new one for the log; None
        if neither wants one.
        """
        noted = Account() if traced is None and self._access_log else traced
        # Always: a pipelined request is begun in the context of the one before.
        account.current.set(noted)
        return noted

    def _count_of(self, key: Key | None, template: str, status: int, seconds: float) -> None:
        self.count(template, status, seconds)
        if key is not None:
            self._key_requests(key.name, status).inc()

    def count(self, template: str, status: int, seconds: float) -> None:
        """Counts a response of a route."""
        self._seconds[template].observe(seconds)
        noted = account.current.get()
        if noted is not None and noted.trace is not None and noted.trace.sampled:
            # The labels of `request_seconds`, sorted.
            self._exemplars.note((("route", template),), seconds, noted.trace)
        if seconds > self._slow_seconds:
            self._slow[template].inc()
        self._requests(template, status).inc()


class DrainMiddleware:
    """Tracks the requests in flight; rejects new ones while the worker stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can still be answered."""
        if scope["type"] != "http" or scope["path"] in ALIVE:
            await self._app(scope, receive, send)
        elif self._drain.rejecting or (not self._drain.ready and scope["path"].endswith("/ready")):
            self._drain.rejected()
            fault = "the service is stopping" if self._drain.stopping else "inference fails here"
            await _reject(scope, receive, send, f"{fault}: ask another replica")
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        task = self._drain.begin()
        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if begun or not self._drain.cancelling:
                raise
            await _reject(
                scope,
                receive,
                send,
                "the service has stopped before this was answered: ask another replica",
            )
        finally:
            self._drain.end(task)


async def _reject(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    response = problems.respond(Request(scope), Unavailable(reason, reason="stopping"))
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _counted(receive: Receive, noted: Account | None) -> Receive:
    """`receive`, with the bytes of the body noted; itself where nothing is."""
    if noted is None:
        return receive

    async def receive_and_note() -> Message:
        message = await receive()
        noted.bytes_in += len(message.get("body", b""))
        return message

    return receive_and_note


def _complete(noted: Account, template: str, status: int, key: Key | None) -> None:
    noted.route, noted.status = template, status
    noted.key = "" if key is None else key.name


def _log(
    method: str, path: str, template: str, status: int, seconds: float, noted: Account | None
) -> None:
    fields = {
        "method": method,
        "path": path,
        "route": template,
        "status": status,
        "milliseconds": round(1000 * seconds, 3),
    }
    extra = {"fields": fields, "details": {} if noted is None else noted.details()}
    log.info("%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra=extra)
