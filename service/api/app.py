"""Wires routes, errors and measuring into one application."""

from typing import NamedTuple

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp

from service.api import pages, problems
from service.api.kserve.v1 import KServeV1
from service.api.kserve.v2 import OpenInference
from service.api.middleware import Admitted, Measured, Stopping
from service.api.native import Native, document
from service.api.openapi import bentoml
from service.api.openapi import document as openapi_document
from service.api.overload import Door
from service.api.straight import Straight
from service.bundle.folder import Bundle
from service.errors import RequestError
from service.schedule.pipeline import Pipeline
from service.settings import Settings
from service.workers.drain import Drain


class Application(NamedTuple):
    """What answers, and what refuses at the door."""

    app: ASGIApp
    door: Door


def build(pipeline: Pipeline, bundle: Bundle, settings: Settings, drain: Drain) -> Application:
    """The application that serves `bundle` through `pipeline`."""
    native = Native(pipeline, bundle, settings)
    described = {
        "/openapi.json": openapi_document.document(
            bundle.manifest, settings.max_body_bytes, shown=native.shows_references
        ),
        "/schema.json": bentoml.document(bundle.manifest),
    }
    kserve_v1 = KServeV1(pipeline, native, settings.max_body_bytes)
    routes = [
        *native.routes(),
        *(Route(path, document(orjson.dumps(told))) for path, told in described.items()),
        *OpenInference(pipeline, bundle, settings).routes(),
        *kserve_v1.routes(),
    ]
    every = [*routes, *pages.routes(bundle, settings.grafana_url)]
    handlers = {
        RequestError: problems.on_error,
        ClientDisconnect: problems.on_error,
        HTTPException: problems.on_http_exception,
        Exception: problems.on_error,
    }
    straight = Straight(Starlette(routes=every, exception_handlers=handlers), routes)
    app = Admitted(Stopping(straight, drain), pipeline, drain, routes)
    measured = Measured(app, pipeline.metrics, routes, tell=settings.access_log)
    return Application(measured, Door(pipeline, measured, drain, routes))
