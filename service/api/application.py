"""Wires routes, errors and measuring into one application."""

from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from service.api import pages, problems
from service.api.door import Door
from service.api.kserve_v1 import KServeV1
from service.api.middleware import Admitted, Measured, Stopping
from service.api.native import Native
from service.api.open_inference import OpenInference
from service.api.straight import Straight
from service.bundle import Bundle
from service.drain import Drain
from service.errors import RequestError
from service.pipeline import Pipeline
from service.settings import Settings


class Application(NamedTuple):
    """What answers, and what refuses at the door."""

    app: ASGIApp
    door: Door


def build(pipeline: Pipeline, bundle: Bundle, settings: Settings, drain: Drain) -> Application:
    """The application that serves `bundle` through `pipeline`."""
    native = Native(pipeline, bundle, settings)
    kserve_v1 = KServeV1(pipeline, native, settings.max_body_bytes)
    routes = [*native.routes(), *OpenInference(pipeline, bundle, settings).routes(), *kserve_v1.routes()]
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
