"""Pure ASGI middleware: counts and times every request by the template of its route, never by its path."""

import time
from collections.abc import Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics

UNKNOWN = "unknown"
PROBES = (
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{name}/ready",
    "/v2/models/{name}/versions/{version}/ready",
)


class Measured:
    """Observes `app`; what no route serves is counted together, and probes and scrapes, which are no traffic, not at all."""

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
            if template not in PROBES:
                self._count(template if template in self._seconds else UNKNOWN, status, time.perf_counter() - started)

    def _count(self, template: str, status: int, seconds: float) -> None:
        self._seconds[template].observe(seconds)
        self._requests.labels(template, str(status)).inc()
