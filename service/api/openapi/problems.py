"""The responses of errors, made of the tree in `service.errors`."""

import inspect
from typing import Any

from service.api import problems
from service.api.problems import Problem
from service.api.wire.protocols import ProtocolError
from service.api.wire.schemas import ref
from service.errors import (
    MethodNotAllowed,
    NotFound,
    RequestError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

# Where no route matches; where there are keys (`service.api.openapi.security`).
NO_ROUTE_ERRORS = (NotFound, MethodNotAllowed, Unauthorized)


def errors() -> dict[int, list[type[RequestError]]]:
    """The errors of existing routes on a server without keys, by status."""
    # The tree of errors is the only list of them: a new leaf appears in the document by itself.
    by_status: dict[int, list[type[RequestError]]] = {}
    for leaf in RequestError.__subclasses__():
        if leaf not in NO_ROUTE_ERRORS:
            by_status.setdefault(leaf.status, []).append(leaf)
    return dict(sorted(by_status.items()))


def problem(leaves: list[type[RequestError]]) -> dict[str, Any]:
    """The response of one status, with an example of each error and its code."""
    # A real detail has values; the docstring of the error is the sentence without them.
    examples = {
        leaf.code: {"value": problems.problem(leaf(inspect.getdoc(leaf) or leaf.title))}
        for leaf in leaves
    }
    # A schema of its own for each status would keep generators from sharing one class.
    media = {"schema": ref(Problem), "examples": examples}
    response: dict[str, Any] = {
        "description": "; ".join(leaf.title for leaf in leaves),
        "content": {problems.MEDIA_TYPE: media},
    }
    if leaves[0].status in (TooManyRequests.status, Unavailable.status):
        seconds = {"description": "Seconds until the retry", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


def error(description: str) -> dict[str, Any]:
    """The response of an error in the form of KServe's protocols."""
    return {
        "description": description,
        "content": {"application/json": {"schema": ref(ProtocolError)}},
    }
