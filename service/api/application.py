"""Wires routes, errors and measuring into one application."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from service.api import problems
from service.api.middleware import Measured
from service.api.native import Native
from service.bundle import Bundle
from service.errors import RequestError
from service.pipeline import Pipeline
from service.settings import Settings


def build(pipeline: Pipeline, bundle: Bundle, settings: Settings) -> Starlette:
    """The application that serves `bundle` through `pipeline`."""
    routes = Native(pipeline, bundle, settings.max_body_bytes).routes()
    return Starlette(
        routes=routes,
        middleware=[Middleware(Measured, metrics=pipeline.metrics, routes=routes)],
        exception_handlers={
            RequestError: problems.on_request_error,
            HTTPException: problems.on_http_exception,
            Exception: problems.on_defect,
        },
    )
