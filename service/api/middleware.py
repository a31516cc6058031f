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

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.api.access import guard, sites
from service.api.access.keys import Key
from service.errors import Unavailable
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.workers.drain import Drain

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

log = logging.getLogger("candor.access")


class ObservationMiddleware:
    """Gives requests an id, and counts and times them by the `paths` of the API, as templates.

    Every response has an `X-Request-Id`: the caller's if it is sane, or one that no other request
    of any worker has. Probes, scrapes and the files of the page are no traffic and not counted.
    Those of more than `slow_seconds` count as slow. With `access_log`, every counted one is logged.
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
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # Starlette's router sets "route" to the one that matched.
            template = getattr(scope.get("route"), "path", UNKNOWN)
            if template in self._seconds:
                seconds = time.perf_counter() - started
                self._count_of(scope.get(guard.KEY), template, status, seconds)
                if self._access_log:
                    # As it was sent: the decoded path may hold line breaks.
                    path = scope["raw_path"].decode("ascii", "replace")
                    _log(scope["method"], path, template, status, seconds)

    def request_id(self, given: bytes) -> bytes:
        """The id of a request: the one `given` by its caller if it is sane, else a new one."""
        return given if given and SANE.fullmatch(given) else next(self._new_ids)

    def count_early(self, path: str, status: int, seconds: float, request_id: bytes) -> None:
        """Counts and logs a response to a POST that was given before a task existed."""
        self.count(path, status, seconds)
        if self._access_log:
            token = logs.request_id.set(request_id.decode())
            _log("POST", path, path, status, seconds)
            logs.request_id.reset(token)

    def count_call(self, key: Key | None, method: str, status: int, seconds: float) -> None:
        """Counts and logs a call of gRPC, which is a POST to the path of its method."""
        self._count_of(key, method, status, seconds)
        if self._access_log:
            _log("POST", method, method, status, seconds)

    def _count_of(self, key: Key | None, template: str, status: int, seconds: float) -> None:
        self.count(template, status, seconds)
        if key is not None:
            self._key_requests(key.name, status).inc()

    def count(self, template: str, status: int, seconds: float) -> None:
        """Counts a response of a route."""
        self._seconds[template].observe(seconds)
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
    response = problems.respond(Request(scope), Unavailable(reason))
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _log(method: str, path: str, template: str, status: int, seconds: float) -> None:
    fields = {
        "method": method,
        "path": path,
        "route": template,
        "status": status,
        "milliseconds": round(1000 * seconds, 3),
    }
    log.info("%s %s %d %.1f ms", method, path, status, 1000 * seconds, extra={"fields": fields})
