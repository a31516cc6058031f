"""Errors as application/problem+json (RFC 9457): type, title, status, detail, code.

Under /v1 and /v2 an error has the form of KServe's protocols: application/json, {"error": the
detail}.
"""

import logging
from http import HTTPStatus
from typing import Annotated

import orjson
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from typing_extensions import TypedDict

from service.errors import InternalError, MethodNotAllowed, NotFound, RequestError
from service.telemetry import account

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:candor:problem:"
METHOD_NOT_ALLOWED = 405
GONE = 499  # nginx's number for a client that closed the connection; nobody reads the response
PROTOCOLS = ("/v1/", "/v2/")

# Of every answer that is not a file of the page: no cache keeps it, and no script is made of it.
HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
SAFE_LINES = b"".join(b"%b: %b\r\n" % header for header in HEADERS) + b"\r\n"

log = logging.getLogger("candor")


class Problem(TypedDict):
    """A problem (RFC 9457)."""

    # Not among the types of `service.api.wire`, which import the engine: BentoML's supervisor
    # imports this module, and must stay small.
    type: Annotated[
        str,
        Field(
            description="The kind of error, as a URN",
            examples=["urn:candor:problem:body-too-large"],
        ),
    ]
    title: Annotated[
        str, Field(description="The kind of error in words", examples=["Body too large"])
    ]
    status: Annotated[int, Field(description="The HTTP status", examples=[413])]
    detail: Annotated[
        str,
        Field(
            description="The cause, the value, the limit and the remedy",
            examples=["the body is empty (0 bytes)"],
        ),
    ]
    code: Annotated[
        str,
        Field(description="The stable name of this kind of error", examples=["body_too_large"]),
    ]


def problem(error: RequestError) -> Problem:
    """The problem document of `error`."""
    return {
        "type": TYPE + error.code.replace("_", "-"),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }


def of_an_image(error: RequestError) -> Problem:
    """The problem of one image of a list; the other images are answered all the same."""
    if (noted := account.current.get()) is not None:
        noted.failed += 1
        noted.fail(error)
    return problem(error)


def respond(request: Request, error: RequestError) -> Response:
    """The response for `error`, in the form of the protocol of `request`."""
    if (noted := account.current.get()) is not None:
        noted.fail(error)
    seconds = getattr(error, "retry_after_seconds", None)
    headers = {"Retry-After": str(seconds)} if seconds is not None else {}
    if challenge := getattr(error, "challenge", None):
        headers["WWW-Authenticate"] = challenge
    if f"{request.scope['path']}/".startswith(PROTOCOLS):
        return Response(
            orjson.dumps({"error": error.detail}), error.status, headers, "application/json"
        )
    return Response(orjson.dumps(problem(error)), error.status, headers, MEDIA_TYPE)


def whole(error: RequestError) -> bytes:
    """The bytes of the last response of a connection, to what is no request: it has no path."""
    body = orjson.dumps(problem(error))
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    )
    return head.encode() + SAFE_LINES + body


def defect(error: Exception) -> RequestError:
    """An unexpected exception as the caller may see it; the trace goes to the log."""
    log.error("a defect", exc_info=error)
    return InternalError(
        "the service failed at this request, and its log has the cause: report it to the operator"
    )


def answer(request: Request, error: Exception) -> Response:
    """The response to a request that ended in `error`: a RequestError, a disconnected caller, or a
    defect.
    """
    if isinstance(error, RequestError):
        return respond(request, error)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=GONE)
    return respond(request, defect(error))


async def on_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for the exceptions of endpoints."""
    return answer(request, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's handler for requests that its router has no route for."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        response = respond(
            request, MethodNotAllowed(f"{request.method} {path} is not served; use {allowed}")
        )
        response.headers["Allow"] = allowed
        return response
    slash = ": leave out the slash at its end" if path.endswith("/") else ""
    return respond(
        request, NotFound(f"{path} is not served{slash}; GET /openapi.json lists all paths")
    )
