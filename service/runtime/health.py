"""The health of the device: a device that fails every run makes the worker unready, and ends it.

The engine notes every run. After LIMIT failed runs in a row the worker is not ready, and the
self-test of the bundle decides: if it passes, the worker is ready again; if it fails, it runs once
more after PAUSE_SECONDS, and then the process ends, for BentoML or Kubernetes to start another.
What a caller sends never counts: a run gets arrays that were checked.
"""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

LIMIT = 5
WATCH_SECONDS, PAUSE_SECONDS = 0.5, 2.0
TEST_SECONDS = 10.0  # a self-test that takes longer has failed
TRACE_SECONDS = 600.0  # a trace of a failure is logged once in this time
EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h

log = logging.getLogger("candor")


@runtime_checkable
class Count(Protocol):
    """A number that grows: a counter of the metrics."""

    def inc(self) -> None:
        """Adds one."""


class Health:
    """The failed runs in a row of one engine; safe for its threads."""

    def __init__(self, failures: Count | None = None) -> None:
        """Counts each failed run in `failures`, too."""
        self._failures = failures
        self._row = 0
        self._traced = -math.inf
        self._lock = threading.Lock()

    @property
    def failing(self) -> bool:
        """True after LIMIT failed runs without a success."""
        return self._row >= LIMIT

    def succeeded(self) -> None:
        """Notes a run that gave an answer."""
        self._row = 0

    def failed(self, error: Exception) -> None:
        """Notes a run that raised `error`; the first is logged with its trace."""
        with self._lock:
            self._row += 1
            now = time.monotonic()
            if now - self._traced >= TRACE_SECONDS:
                self._traced = now
                log.error(
                    "inference failed; more failures are only counted, in "
                    "candor_device_failures_total",
                    exc_info=error,
                )
        if self._failures is not None:
            self._failures.inc()

    async def watch(
        self,
        self_test: Callable[[], None],
        set_ready: Callable[[bool], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """Watches for a device that fails, for ever; `end` ends the process at once."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if not self.failing:
                continue
            set_ready(False)
            log.error("%d inference runs failed in a row: the device is tested", self._row)
            if not await self._recovers(self_test):
                log.critical("the device fails its self-test, too: the worker ends")
                end(EXIT_CODE)
                return
            self.succeeded()
            set_ready(True)
            log.warning("the device passes its self-test: the worker is ready again")

    async def _recovers(self, self_test: Callable[[], None]) -> bool:
        if await _passes(self_test):
            return True
        await asyncio.sleep(PAUSE_SECONDS)
        return not self.failing or await _passes(self_test)


async def _passes(self_test: Callable[[], None]) -> bool:
    try:
        async with asyncio.timeout(TEST_SECONDS):
            # Not on the event loop, which answers the probes meanwhile.
            await asyncio.to_thread(self_test)
    except Exception as error:  # noqa: BLE001 - a device fails in any way
        log.error("the self-test failed: %s", str(error).partition("\n")[0])  # noqa: TRY400 - one trace is enough
        return False
    return True
