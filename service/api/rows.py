"""The rows of one request where a protocol has no error for one of several: all are answered, or the request fails for the bad one."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from service.errors import RequestError

Result = TypeVar("Result")


async def together(name: str, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of rows that run at once, in their order; when one fails, the others are given up.

    Raises:
        RequestError: of a row that failed, which the message names: "`name` 3: …".
    """
    tasks = [asyncio.ensure_future(_numbered(f"{name} {number}", row)) for number, row in enumerate(work)]
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
