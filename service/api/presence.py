"""Whether the caller is still there: work for one who went away is given up, and its place is free."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service import connection
from service.api.problems import GONE


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer of `work`, which is cancelled if the caller of `request`, whose body has been read, goes away before.

    Where the connection is of a kind that is not known (`service.connection`), the work goes on to its end.
    """
    caller, task = connection.of(request.scope), asyncio.current_task()
    if caller is None or task is None:
        return await work
    try:
        with caller.telling(task.cancel):
            return await work
    except asyncio.CancelledError:
        if not caller.lost:
            raise
        task.uncancel()
        return Response(status_code=GONE)
