"""The HTTP API as one ASGI application.

A request passes `ObservationMiddleware` (id, metrics), `GuardMiddleware` (its key, Host and
Origin), `DrainMiddleware` (503 while the worker stops) and `Application`: the version of a model
that answers is found, a POST with images is admitted or rejected before its body is read, and the
endpoint is called (`service.api.models.front`).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import grpc as rpc
from service.api import pages, problems
from service.api.access.guard import Guard, GuardedRoute, GuardMiddleware
from service.api.access.keys import Keys
from service.api.access.sites import Sites
from service.api.bento import BENTOML_PATHS
from service.api.body import Limits
from service.api.kserve import unserved
from service.api.middleware import DrainMiddleware, ObservationMiddleware
from service.api.models.endpoints import Answers
from service.api.models.front import Front, takes_images
from service.api.models.repository import Repository
from service.api.models.rollouts import RolloutRoutes
from service.api.overload import OverloadRejection
from service.errors import RequestError
from service.repository.reload import Reload
from service.repository.rollout import Rollouts
from service.repository.shelf import Shelf
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.workers.drain import Drain


class Api(NamedTuple):
    """The application with its middleware, its guard, what rejects requests before it, and what
    gRPC shares with HTTP.
    """

    app: ASGIApp
    guard: Guard
    rejection: OverloadRejection
    models: Repository
    observation: ObservationMiddleware


def build(
    shelf: Shelf[Answers],
    reload: Reload[Answers],
    rollouts: Rollouts[Answers],
    metrics: Metrics,
    settings: Settings,
    drain: Drain,
) -> Api:
    """The API that serves the models of `shelf`."""
    models = Repository(shelf, reload)
    limits = Limits(settings.max_body_bytes, shelf.default.answers.pipeline.budgets.bodies)
    changes = RolloutRoutes(shelf, reload, rollouts, limits)
    routes = [*models.routes(), *changes.routes(), *Front(shelf, rollouts).routes()]
    page_routes = pages.routes(settings.grafana_url)
    application = Application(routes, page_routes)
    guard = _guard([*routes, *page_routes], settings)
    observation = ObservationMiddleware(
        GuardMiddleware(DrainMiddleware(application, drain), guard),
        metrics,
        # The files of a bundle are no traffic.
        [
            *(route.path for route in routes if "{file}" not in route.path),
            *(rpc.COUNTED if settings.grpc_port else ()),
        ],
        slow_seconds=settings.latency_objective_seconds,
        access_log=settings.access_log,
    )
    rejection = OverloadRejection(
        lambda: shelf.default.answers.pipeline,
        observation,
        drain,
        application.fixed_paths,
        guard.error,
    )
    return Api(observation, guard, rejection, models, observation)


def _guard(routes: Iterable[GuardedRoute], settings: Settings) -> Guard:
    """The guard of `routes` and of the paths that BentoML answers."""
    keys = None if settings.keys is None else Keys(settings.keys)
    return Guard(routes, BENTOML_PATHS, keys, Sites(settings.served_hosts), settings.admin_port)


class Application:
    """The endpoints of `routes` and `page_routes`."""

    def __init__(self, routes: Sequence[Route], page_routes: Iterable[Route]) -> None:
        # Starlette leads a request through six layers to its endpoint. For the fixed paths that
        # images are sent to, none of them has anything to do but to catch errors: a look-up does
        # (docs/decisions/0006-bentoml-and-the-fast-path.md).
        self._fixed = {route.path: route for route in routes if takes_images(route)}
        self._router = Starlette(
            routes=[*routes, *page_routes],
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


async def _no_route(request: Request, error: Exception) -> Response:
    """Answers a request that no route is for."""
    if missing := unserved.error(request.url.path):
        return problems.respond(request, missing)
    return await problems.on_http_exception(request, error)
