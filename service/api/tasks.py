"""The tasks of one request: cancelled when its caller disconnects, gathered where it has several
rows.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from service.api.access import guard
from service.api.problems import GONE
from service.errors import RequestError
from service.workers import protocol

Result = TypeVar("Result")


def caller_of(request: Request) -> str:
    """The caller that explanations are shared by: the name of the key of `request`, or else its
    address.
    """
    if (key := request.scope.get(guard.KEY)) is not None:
        return f"key {key.name}"
    client = request.scope.get("client")
    return str(client[0]) if client else ""


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The response of `work`, which is cancelled when the caller of `request` disconnects; the
    body must have been read.

    On another protocol class than `service.workers.protocol.Connection` the work goes on to its
    end.
    """
    connection, task = protocol.of(request.scope), asyncio.current_task()
    if connection is None or task is None:
        return await work
    try:
        with connection.calling(task.cancel):
            return await work
    except asyncio.CancelledError:
        if not connection.lost:
            raise
        task.uncancel()
        return Response(status_code=GONE)


async def gather_rows(name: str, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of rows that run at once, in their order; when one fails, the others are
    cancelled.

    Raises:
        RequestError: the error of a row, whose message begins with "`name` 3: ".
    """
    tasks = [
        asyncio.ensure_future(_numbered(f"{name} {number}", row)) for number, row in enumerate(work)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _numbered(place: str, row: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await row
    except RequestError as error:
        error.args = (f"{place}: {error}",)
        raise
