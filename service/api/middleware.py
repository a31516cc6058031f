"""Pure ASGI middleware: counts and times every request by the template of its route, never by its path, and refuses what is too many."""

import time
from collections.abc import Iterable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import problems
from service.errors import TooManyRequests
from service.metrics import Metrics
from service.pipeline import Pipeline

UNKNOWN = "unknown"
PROBES = (
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
)


class Measured:
    """Observes `app`, whose API has `routes`; what no route serves is counted together.

    Probes, scrapes and the files of the page are no traffic, and are not counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[Route]) -> None:
        self._app = app
        self._requests = metrics.requests
        templates = [*(route.path for route in routes if route.path not in PROBES), UNKNOWN]
        self._seconds = {template: metrics.request_seconds.labels(template) for template in templates}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, and looks at the status and the end of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            template = getattr(scope.get("route"), "path", UNKNOWN)  # the router leaves here what matched
            if template in self._seconds:
                self._count(template, status, time.perf_counter() - started)

    def _count(self, template: str, status: int, seconds: float) -> None:
        self._seconds[template].observe(seconds)
        self._requests.labels(template, str(status)).inc()


class Admitted:
    """Refuses pictures before routing and reading while too many wait: under overload most answers are refusals, so they have to be cheap.

    Only routes without parameters in their path, by which the router would not know more than this does.
    """

    def __init__(self, app: ASGIApp, pipeline: Pipeline, routes: Iterable[Route]) -> None:
        self._app = app
        self._pipeline = pipeline
        self._routes = {route.path: route for route in routes if route.methods == {"POST"} and not route.param_convertors}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on what can be answered."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes:
            try:
                self._pipeline.admit()
            except TooManyRequests as error:
                scope["route"] = self._routes[scope["path"]]
                await problems.respond(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
