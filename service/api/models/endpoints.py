"""What answers for one version of a model: its endpoints, by the templates of their routes.

The templates are the same for every version, so that the version may change between two requests.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp

from service.api import body as request_body
from service.api import pages
from service.api.access import guard
from service.api.access.guard import GuardedRoute, Needs
from service.api.bento import BENTOML_PATHS
from service.api.bento.calls import Calls
from service.api.kserve.inference import Inference
from service.api.kserve.v1 import KServeV1
from service.api.kserve.v2 import OpenInference
from service.api.native import Native, document
from service.api.openapi import document as openapi_document
from service.api.openapi.security import with_keys
from service.bundle.folder import Bundle
from service.bundle.manifest import Manifest
from service.schedule.pipeline import Pipeline
from service.settings import Settings

OPENAPI = "/openapi.json"
# The routes about all models (`repository`, `rollouts`).
SHARED: Mapping[str, Needs] = {
    "/models": guard.DOCUMENTS,
    "/models/{name}/comparison": guard.ADMIN,
    "/models/{name}/rollout": guard.ADMIN,
    "/models/{name}/promote": guard.ADMIN,
    "/models/{name}/rollback": guard.ADMIN,
    "/v1/models": guard.DOCUMENTS,
    "/v2/models/stats": guard.DOCUMENTS,
    "/v2/repository/index": guard.DOCUMENTS,
    "/v2/repository/models/{name}/load": guard.ADMIN,
    "/v2/repository/models/{name}/unload": guard.ADMIN,
}
Endpoint = Callable[[Request], Awaitable[ASGIApp]]


class Answers(NamedTuple):
    """What answers for one version; `routes` lead to its endpoints, and to no other version's."""

    pipeline: Pipeline
    bundle: Bundle
    inference: Inference
    calls: Calls
    routes: tuple[GuardedRoute, ...]
    endpoints: Mapping[str, Endpoint]

    @property
    def manifest(self) -> Manifest:
        """The manifest of the version, under the name that it is served by."""
        return self.bundle.manifest


def answers_of(pipeline: Pipeline, bundle: Bundle, settings: Settings, prefix: str = "") -> Answers:
    """What answers for `bundle` through `pipeline`; `prefix` is the path of the model, which the
    default one has none of.
    """
    limits = request_body.Limits(settings.max_body_bytes, pipeline.budgets.bodies)
    native = Native(pipeline, bundle, settings, limits, prefix)
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
    routes = (
        *described,
        GuardedRoute(OPENAPI, guard.DOCUMENTS, document(orjson.dumps(openapi))),
        *pages.bundle_routes(bundle),
    )
    calls = Calls(native, bundle.manifest, pipeline.metrics, pipeline.defaults)
    endpoints = {route.path: route.endpoint for route in routes}
    return Answers(pipeline, bundle, tensors.inference, calls, routes, endpoints)


def shared(path: str, endpoint: Endpoint, methods: list[str] | None = None) -> GuardedRoute:
    """One of the routes about all models."""
    return GuardedRoute(path, SHARED[path], endpoint, methods)


def _needs(routes: list[GuardedRoute]) -> dict[str, Needs]:
    """The scopes of which each path of the OpenAPI document needs one."""
    ours = {route.path_format: route.needs for route in routes}
    return {**ours, **SHARED, **BENTOML_PATHS, OPENAPI: guard.DOCUMENTS}
