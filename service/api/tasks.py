"""The tasks of one request: cancelled when its caller disconnects, gathered where it has several
rows.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from ipaddress import IPv6Network
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from service.api.access import guard
from service.api.access.keys import Key
from service.api.problems import GONE
from service.errors import RequestError
from service.schedule.allowance import Caller
from service.schedule.pipeline import Pipeline
from service.schedule.timing import Timing
from service.workers import protocol

Result = TypeVar("Result")
NETWORK_BITS = 64


def timing_of(request: Request, pipeline: Pipeline) -> Timing:
    """The timing of a `request` that begins.

    Raises:
        TooManyRequests: its caller has used up an allowance.
    """
    return timing_for(caller_of(request), pipeline)


def timing_for(caller: Caller, pipeline: Pipeline, started: float | None = None) -> Timing:
    """The timing of a request of `caller` that begins, or began at `started`.

    Raises:
        TooManyRequests: the caller has used up an allowance.
    """
    pipeline.allowances.check(caller)
    return Timing(pipeline.metrics, started or time.perf_counter(), caller)


def caller_of(request: Request) -> Caller:
    """The caller that time and allowances are shared by: the name of the key of `request`, or else
    its address. One caller often has all addresses of an IPv6 network of 64 bits.
    """
    client = request.scope.get("client")
    return caller(request.scope.get(guard.KEY), str(client[0]) if client else "")


def caller(key: Key | None, address: str) -> Caller:
    """The same of a key, if there is one, and an address."""
    if key is not None:
        return Caller(f"key {key.name}", key.rates)
    if ":" in address and "." not in address:
        address = str(IPv6Network((address.partition("%")[0], NETWORK_BITS), strict=False))
    return Caller(address)


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
        # The exception of one holds this frame, which would hold it: a cycle with all images.
        del tasks


async def _numbered(place: str, row: Coroutine[Any, Any, Result]) -> Result:
    try:
        return await row
    except RequestError as error:
        error.args = (f"{place}: {error}",)
        raise
