"""The class of the BentoML service, whose application stands before BentoML's.

BentoML leads a request through tracing, a timeout, a context and a router before a mounted
application sees it, which takes longer than the request itself
(docs/decisions/0006-bentoml-and-the-fast-path.md). Here BentoML's application keeps what is
BentoML's: the start, the probes, the schema, and the calls of services that depend on this one.
"""

from typing import Any

import bentoml
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access.guard import Guard, GuardMiddleware
from service.api.access.sites import safe
from service.api.bento import BENTOML_PATHS, CALLS, configuration
from service.workers import memory


class FrontedService(bentoml.Service):  # type: ignore[misc] # bentoml is untyped
    """A BentoML service; its class has `app`, an ASGI application with its `guard`, and
    `connection_state`, for each connection of the server.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:  # noqa: FBT001, FBT002 - as BentoML has it
        """The application for a server, which starts the service with it."""
        # The supervisor imports this module, and runs no server.
        from service.workers import protocol  # noqa: PLC0415

        protocol.install()
        memory.limit_heaps()
        application: ASGIApp = super().to_asgi(is_main=is_main)
        configuration.check(self)
        return Front(application, configuration.cors(self.name), is_main=is_main)


class Front:
    """Leads requests to the service's own application or to BentoML's."""

    def __init__(self, bentoml_app: ASGIApp, cors: dict[str, Any] | None, *, is_main: bool) -> None:
        self._bentoml = bentoml_app
        self._cors = cors
        # Dependent services send pickles, which run code: they are taken at a dependency's own
        # socket, which no client reaches.
        self._is_main = is_main
        self._calls = {} if is_main else {CALLS: bentoml_app}
        self._app: ASGIApp = bentoml_app  # until the service has started
        self._own = bentoml_app  # for BentoML's paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or starts and stops the service."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["path"] in BENTOML_PATHS:
            await self._own(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_after_start(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._started(scope)
            await send(message)

        await self._bentoml(scope, receive, send_after_start)

    def _started(self, scope: Scope) -> None:
        instance = bentoml.get_current_service()
        guard: Guard = instance.guard
        if not self._is_main:
            guard.trust_all()
        self._app = instance.app
        self._own = _with_safe_headers(GuardMiddleware(self._bentoml, guard))
        if self._cors is not None:
            self._app = cors = CORSMiddleware(instance.app, **self._cors)
            guard.sites.allow_origins(cors.is_allowed_origin)
        # The server copies its state into that of every connection and request.
        scope.setdefault("state", {}).update(instance.connection_state, **self._calls)


def _with_safe_headers(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = safe(message.get("headers", ()))
            await send(message)

        await app(scope, receive, send_safely)

    return answer
