"""One version of a model in memory, with what answers its requests.

It is let go after its last answer: requests that are being answered use it, and `retire` waits for
them. All of this happens on the event loop.
"""

import asyncio
import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar, runtime_checkable

from service.repository.catalogue import Version
from service.runtime.engine import Engine
from service.schedule.inference import Fitted
from service.schedule.pipeline import Pipeline
from service.workers import memory


@runtime_checkable
class Answering(Protocol):
    """What answers the requests of a version."""

    @property
    def pipeline(self) -> Pipeline:
        """The way of its images."""


Answers = TypeVar("Answers", bound=Answering)


class Loaded(Generic[Answers]):
    """A `version` in memory, which took `cost_bytes`; `answers` is what serves it."""

    def __init__(self, version: Version, answers: Answers, cost_bytes: int) -> None:
        self.version = version
        self.answers = answers
        self.cost_bytes = cost_bytes
        self.used_at = -math.inf  # of `time.monotonic`
        self._kept = False
        self._users = 0
        self._retired = False
        self._gone = asyncio.Event()

    @property
    def retired(self) -> bool:
        """True once it answers nothing more."""
        return self._retired

    @property
    def in_use(self) -> bool:
        """True while it answers a request."""
        return self._users > 0

    @property
    def kept(self) -> bool:
        """True if it stays in memory, used or not."""
        return self._kept

    def keep(self, watch: Callable[[Fitted], None] | None = None) -> None:
        """Keeps it in memory; `watch` sees the images that it predicts for callers."""
        self._kept = True
        self.answers.pipeline.watch = watch

    def release(self) -> None:
        """Ends what `keep` began."""
        self._kept = False
        self.answers.pipeline.watch = None

    @contextmanager
    def used(self) -> Iterator[Answers]:
        """Keeps it in memory for the block."""
        self._users += 1
        self.used_at = time.monotonic()
        try:
            yield self.answers
        finally:
            self._users -= 1
            if self._retired and not self._users:
                self._gone.set()

    async def retire(self) -> None:
        """Lets it go, after its last answer."""
        self._retired = True
        if self._users:
            await self._gone.wait()
        self.answers.pipeline.close()
        engine = self.answers.pipeline.engine
        del self  # it has the pipeline, which is in memory as long as this coroutine refers to it
        # To give its memory back to the system takes milliseconds.
        await asyncio.to_thread(_free, engine)


def _free(engine: Engine) -> None:
    engine.close()
    # The parts of a pipeline refer to each other; the collector comes late by itself.
    gc.collect()
    memory.trim()
