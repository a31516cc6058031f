"""The straight way: POST to a route that its path alone tells goes to the endpoint at once.

Starlette leads a request through six layers to an endpoint, and the answer back through them. For the routes that images are sent to none of
these has anything to do but to catch errors, which is done here (docs/benchmarks.md tells what it saves).
"""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.middleware import admitted


class Straight:
    """Leads to an endpoint of `routes`, or else through `app`, which knows all of them."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = admitted(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what can be answered straight."""
        route = (
            self._routes.get(scope["path"])
            if scope["type"] == "http" and scope["method"] == "POST"
            else None
        )
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            answer = await route.endpoint(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            answer = problems.answer(request, error)
        await answer(scope, receive, send)
