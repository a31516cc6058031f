"""The stages that the current request has passed, collected where a trace is made of them."""

from contextvars import ContextVar
from typing import NamedTuple


class Stage(NamedTuple):
    """A stage that an image has passed, in seconds of `time.perf_counter`."""

    name: str
    ended: float
    seconds: float


# The list of the current request; None where nobody traces.
passed: ContextVar[list[Stage] | None] = ContextVar("passed", default=None)
