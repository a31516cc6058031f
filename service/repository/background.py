"""Tasks that go on whether or not anything waits for them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_running = set[asyncio.Task[Any]]()  # the event loop keeps none alive


def begin(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """The task of `work`, which lives to its end."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
