"""The stages that the current request has passed, for whatever wants a trace of it."""

from contextvars import ContextVar
from typing import NamedTuple


class Stage(NamedTuple):
    """A stage that an image has passed, by the clock of `time.perf_counter`."""

    name: str
    ended: float
    seconds: float


# The stages of the request, where somebody collects them.
passed: ContextVar[list[Stage] | None] = ContextVar("passed", default=None)
