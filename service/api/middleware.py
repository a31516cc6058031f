"""Pure ASGI middleware, from the outside to the inside: `Measured`, `Admitted`, `Stopping`.

Every request is counted and timed by the template of its route, never by its path, has an id, is refused before anything of it is read
if too many wait, and is refused while the service stops.
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
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.errors import Unavailable
from service.schedule.pipeline import Pipeline
from service.telemetry import logs
from service.telemetry.metrics import Metrics
from service.workers.drain import Drain

UNKNOWN = "unknown"
PROBES = (
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
)
ALIVE = ("/metrics", "/v2/health/live")  # are answered to the end
REQUEST_ID, SANE = b"x-request-id", re.compile(rb"[\w.:/+=@-]{1,128}")

log = logging.getLogger("candor.access")


class Measured:
    """Observes `app`, whose API has `routes`; what no route serves is counted together.

    Probes, scrapes and the files of the page are no traffic, and are not counted.

    Every answer has an id in `X-Request-Id`: the caller's, if it is a sane one, or one that no other request of any process has. With
    `tell`, every request is a line in the log.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: Iterable[Route], *, tell: bool = False
    ) -> None:
        self._app = app
        self._tell = tell
        self._requests = cache(
            lambda template, status: metrics.requests.labels(template, str(status))
        )
        templates = [*(route.path for route in routes if route.path not in PROBES), UNKNOWN]
        self._seconds = {
            template: metrics.request_seconds.labels(template) for template in templates
        }
        own = secrets.token_hex(6)
        self._own_ids = (f"{own}-{number}".encode() for number in itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, and looks at the status and the end of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, identity = time.perf_counter(), 500, self._identity(scope)
        logs.request_id.set(identity.decode())

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, identity)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            template = getattr(
                scope.get("route"), "path", UNKNOWN
            )  # the router leaves here what matched
            if template in self._seconds:
                seconds = time.perf_counter() - started
                self.count(template, status, seconds)
                if self._tell:
                    _tell(scope, template, status, seconds)

    def identity(self, given: bytes) -> bytes:
        """The id of a request whose caller gave it this one, which may be empty."""
        return given if given and SANE.fullmatch(given) else next(self._own_ids)

    def count(self, template: str, status: int, seconds: float) -> None:
        """Counts an answer of a route, which took so long."""
        self._seconds[template].observe(seconds)
        self._requests(template, status).inc()

    def _identity(self, scope: Scope) -> bytes:
        return self.identity(
            next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        )


class Admitted:
    """Refuses images before routing and reading while too many wait, if the door has not (`service.api.overload`).

    Only routes without parameters in their path, by which the router would not know more than this does. Who stops refuses everything,
    and says so.
    """

    def __init__(
        self, app: ASGIApp, pipeline: Pipeline, drain: Drain, routes: Iterable[Route]
    ) -> None:
        self._app = app
        self._pipeline = pipeline
        self._drain = drain
        self._routes = admitted(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can be answered."""
        asks = (
            scope["type"] == "http" and scope["path"] in self._routes and scope["method"] == "POST"
        )
        if asks and not self._drain.stopping and (error := self._pipeline.rejection()):
            scope["route"] = self._routes[scope["path"]]
            await problems.respond(Request(scope), error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def admitted(routes: Iterable[Route]) -> dict[str, Route]:
    """Those of `routes` that take images and are known by their path alone, by path."""
    return {
        route.path: route
        for route in routes
        if route.methods == {"POST"} and not route.param_convertors
    }


class Stopping:
    """Knows who is being answered, and refuses in words who comes when the service stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can still be answered."""
        if scope["type"] != "http" or scope["path"] in ALIVE:
            await self._app(scope, receive, send)
        elif self._drain.refusing or (self._drain.stopping and scope["path"].endswith("/ready")):
            self._drain.refuse()
            await _refuse(scope, receive, send, "the service is stopping: ask another replica")
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        task = self._drain.begin()
        try:
            await self._app(scope, receive, sending)
        except asyncio.CancelledError:
            if begun or not self._drain.over:
                raise
            await _refuse(
                scope,
                receive,
                send,
                "the service has stopped before this was answered: ask another replica",
            )
        finally:
            self._drain.end(task)


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    answer = problems.respond(Request(scope), Unavailable(why))
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


def _tell(scope: Scope, template: str, status: int, seconds: float) -> None:
    path = scope["raw_path"].decode(
        "ascii", "replace"
    )  # as it was sent: percent signs, no line breaks
    fields = {
        "method": scope["method"],
        "path": path,
        "route": template,
        "status": status,
        "milliseconds": round(1000 * seconds, 3),
    }
    log.info(
        "%s %s %d %.1f ms", scope["method"], path, status, 1000 * seconds, extra={"fields": fields}
    )
