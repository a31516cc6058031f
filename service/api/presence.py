"""Whether the caller is still there: work for one who went away is given up, and its place is free."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

GONE = 499  # nginx's number for a client that closed the connection; nobody reads the answer


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer of `work`, which is cancelled if the caller of `request`, whose body has been read, goes away before."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        return Response(status_code=GONE)
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
