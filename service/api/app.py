"""The HTTP API as one ASGI application.

A request passes `ObservationMiddleware` (id, metrics), `GuardMiddleware` (its key, Host and
Origin), `DrainMiddleware` (503 while the worker stops) and `Application`: a POST is admitted or
rejected before its body is read, and the endpoint is called.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import body as request_body
from service.api import grpc as rpc
from service.api import pages, problems
from service.api.access import guard as access_guard
from service.api.access.guard import Guard, GuardedRoute, GuardMiddleware, Needs
from service.api.access.keys import Keys
from service.api.access.sites import Sites
from service.api.bento import BENTOML_PATHS, CALLS, PICKLE
from service.api.bento.calls import Calls
from service.api.kserve import unserved
from service.api.kserve.inference import Inference
from service.api.kserve.v1 import KServeV1
from service.api.kserve.v2 import OpenInference
from service.api.middleware import DrainMiddleware, ObservationMiddleware
from service.api.native import Native, document
from service.api.openapi import document as openapi_document
from service.api.openapi.security import with_keys
from service.api.overload import OverloadRejection
from service.bundle.folder import Bundle
from service.errors import RequestError
from service.schedule.pipeline import Pipeline
from service.settings import Settings
from service.workers.drain import Drain

Endpoint = Callable[[Request], Awaitable[ASGIApp]]
OPENAPI = "/openapi.json"


class Api(NamedTuple):
    """The application with its middleware, its guard, what rejects requests before it, what
    answers calls of BentoML's APIs, and what gRPC shares with HTTP.
    """

    app: ASGIApp
    guard: Guard
    rejection: OverloadRejection
    calls: Calls
    inference: Inference
    observation: ObservationMiddleware


def build(pipeline: Pipeline, bundle: Bundle, settings: Settings, drain: Drain) -> Api:
    """The API that serves `bundle` through `pipeline`."""
    limits = request_body.Limits(settings.max_body_bytes, pipeline.budgets.bodies)
    native = Native(pipeline, bundle, settings, limits)
    tensors = OpenInference(pipeline, bundle, limits)
    described = [
        *native.routes(),
        *tensors.routes(),
        *KServeV1(pipeline, native, limits).routes(),
    ]
    openapi = openapi_document.document(
        bundle.manifest,
        settings.max_body_bytes,
        shown=native.shows_references,
        defaults=pipeline.defaults,
    )
    if settings.keys is not None:
        openapi = with_keys(openapi, _needs(described))
    routes = [
        *described,
        GuardedRoute(OPENAPI, access_guard.DOCUMENTS, document(orjson.dumps(openapi))),
    ]
    page_routes = pages.routes(bundle, settings.grafana_url)
    application = Application(routes, page_routes, pipeline)
    guard = _guard([*routes, *page_routes], settings)
    observation = ObservationMiddleware(
        GuardMiddleware(DrainMiddleware(application, drain), guard),
        pipeline.metrics,
        [*(route.path for route in routes), *(rpc.COUNTED if settings.grpc_port else ())],
        slow_seconds=settings.latency_objective_seconds,
        access_log=settings.access_log,
    )
    rejection = OverloadRejection(
        pipeline, observation, drain, application.fixed_paths, guard.error
    )
    calls = Calls(native, bundle.manifest, pipeline.metrics, pipeline.defaults)
    return Api(observation, guard, rejection, calls, tensors.inference, observation)


def _needs(routes: Iterable[GuardedRoute]) -> dict[str, Needs]:
    """The scopes of which each path of the OpenAPI document needs one."""
    ours = {route.path_format: route.needs for route in routes}
    return {**ours, **BENTOML_PATHS, OPENAPI: access_guard.DOCUMENTS}


def _guard(routes: Iterable[GuardedRoute], settings: Settings) -> Guard:
    """The guard of `routes` and of the paths that BentoML answers."""
    keys = None if settings.keys is None else Keys(settings.keys)
    return Guard(routes, BENTOML_PATHS, keys, Sites(settings.served_hosts), settings.admin_port)


class Application:
    """The endpoints of `routes` and `page_routes`. Every POST takes images, and needs a place in
    the queue of `pipeline`.
    """

    def __init__(
        self, routes: Iterable[Route], page_routes: Iterable[Route], pipeline: Pipeline
    ) -> None:
        self._pipeline = pipeline
        guarded = [self._guarded(route) if _takes_images(route) else route for route in routes]
        # Starlette leads a request through six layers to its endpoint. For the fixed paths that
        # images are sent to, none of them has anything to do but to catch errors: a look-up does
        # (docs/decisions/0006-bentoml-and-the-fast-path.md).
        self._fixed = {
            route.path: route for route in guarded if _takes_images(route) and "{" not in route.path
        }
        self._router = Starlette(
            routes=[*guarded, *page_routes],
            exception_handlers={
                RequestError: problems.on_error,
                ClientDisconnect: problems.on_error,
                HTTPException: _no_route,
                Exception: problems.on_error,
            },
        )
        # A redirect would lead to the host that the caller names.
        self._router.router.redirect_slashes = False

    @property
    def fixed_paths(self) -> frozenset[str]:
        """The paths without parameters that images are sent to."""
        return frozenset(self._fixed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        route = (
            self._fixed.get(scope["path"])
            if scope["type"] == "http" and scope["method"] == "POST"
            else None
        )
        if route is None:
            await self._router(scope, receive, send)
            return
        scope["route"] = route  # as Starlette's router does
        request = Request(scope, receive)
        try:
            response: ASGIApp = await route.endpoint(request)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, whatever it is
            response = problems.answer(request, error)
        await response(scope, receive, send)

    def _guarded(self, route: Route) -> Route:
        """`route`, whose endpoint is called for admitted requests only."""
        endpoint: Endpoint = route.endpoint

        async def admitted(request: Request) -> ASGIApp:
            self._pipeline.admit()
            calls: ASGIApp | None = request.scope["state"].get(CALLS)
            if calls is not None and request.headers.get("content-type") == PICKLE:
                return calls  # BentoML's application in the place of a response
            try:
                return await endpoint(request)
            finally:
                request_body.release(request)

        return Route(route.path, admitted, methods=["POST"])


async def _no_route(request: Request, error: Exception) -> Response:
    """Answers a request that no route is for."""
    if missing := unserved.error(request.url.path):
        return problems.respond(request, missing)
    return await problems.on_http_exception(request, error)


def _takes_images(route: Route) -> bool:
    return route.methods == {"POST"}
