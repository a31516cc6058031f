"""Errors as application/problem+json (RFC 9457): type, title, status, detail, code; under /v1 and /v2 as KServe's protocols have it.

There an error is application/json, {"error": the detail}.
"""

import logging
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import InternalError, MethodNotAllowed, NotFound, RequestError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:candor:problem:"
METHOD_NOT_ALLOWED = 405
GONE = 499  # nginx's number for a client that closed the connection; nobody reads the answer
PROTOCOLS = ("/v1/", "/v2/")

log = logging.getLogger("candor")


def problem(error: RequestError) -> dict[str, Any]:
    """The problem document of `error`."""
    return {
        "type": TYPE + error.code.replace("_", "-"),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }


def respond(request: Request, error: RequestError) -> Response:
    """The answer that tells `error`, in the form of what was asked."""
    seconds = getattr(error, "retry_after_seconds", None)
    headers = {"Retry-After": str(seconds)} if seconds is not None else None
    if f"{request.scope['path']}/".startswith(PROTOCOLS):
        return Response(
            orjson.dumps({"error": error.detail}), error.status, headers, "application/json"
        )
    return Response(orjson.dumps(problem(error)), error.status, headers, MEDIA_TYPE)


def defect(error: Exception) -> RequestError:
    """An exception that nobody expected, as the caller may see it; the trace goes to the log."""
    log.error("a defect", exc_info=error)
    return InternalError("the service failed at this request; its log says why: tell the operator")


def answer(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in `error`: one of ours, the caller's leaving in the midst of it, or a defect."""
    if isinstance(error, RequestError):
        return respond(request, error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=GONE)
    return respond(request, defect(error))


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for whatever an endpoint raises."""
    return answer(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for what its router refuses."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        answer = respond(
            request, MethodNotAllowed(f"{request.method} {path} is not served; use {allowed}")
        )
        answer.headers["Allow"] = allowed
        return answer
    return respond(request, NotFound(f"{path} is not served; GET /openapi.json lists what is"))
