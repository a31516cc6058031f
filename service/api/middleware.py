"""Pure ASGI middleware: counts and times every request by the template of its route, never by its path."""

import time
from collections.abc import Iterable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics

UNKNOWN = "unknown"


class Measured:
    """Observes `app`; what no route serves is counted together."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Iterable[Route]) -> None:
        self._app = app
        self._requests = metrics.requests
        templates = [*(route.path for route in routes), UNKNOWN]
        self._seconds = {template: metrics.request_seconds.labels(template) for template in templates}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, and looks at the status and the end of the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        template = scope["path"] if scope["path"] in self._seconds else UNKNOWN

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            self._seconds[template].observe(time.perf_counter() - started)
            self._requests.labels(template, str(status)).inc()
