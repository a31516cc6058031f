"""The one message of a call, read within the limits of time and memory.

gRPC says a message's length to nobody before its end. So a message that is not there within
GRACE_SECONDS is charged as the largest possible one, to the same budget as HTTP's bodies, while the
rest of it arrives; in less time the network brings little. One that has arrived is charged its
length, twice: it is parsed into a copy.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from service.api.body import FREE_BYTES, READ_SECONDS, Limits
from service.errors import RequestError, SlowRequest
from service.image.budget import Lease

GRACE_SECONDS = 0.05
COPIES = 2
LEAST_STREAMS = 4

Read = TypeVar("Read")


class Wait:
    """One message that is waited for; `fault` says why no longer."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.task = asyncio.current_task()
        self.lease: Lease | None = None
        self.fault: RequestError | None = None

    def end(self, fault: RequestError) -> None:
        """Ends the wait."""
        assert self.task is not None
        self.fault = fault
        self.task.cancel()


class Reads:
    """The messages that are being read."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waits: set[Wait] = set()

    async def read(self, message: Awaitable[Any]) -> tuple[Any, Lease | None]:
        """A message, with the memory that it needs: release it when the message is answered.

        Raises:
            SlowRequest: it is incomplete after READ_SECONDS.
            TooManyRequests: there is no memory for it now.
        """
        wait = Wait()
        self._waits.add(wait)
        try:
            body = await message
        except asyncio.CancelledError:
            if wait.fault is None or wait.task is None:
                raise
            wait.task.uncancel()
            raise wait.fault from None
        finally:
            self._waits.discard(wait)
            if wait.lease is not None:
                wait.lease.release()
        return body, self.charged(body)

    def charged(self, body: Any) -> Lease | None:
        """The memory of a message that has arrived; None of a small one.

        Raises:
            TooManyRequests: there is none for it now.
        """
        # The end of a call without a message has no length.
        size = len(body) if isinstance(body, bytes) else 0
        return self._limits.budget.take(COPIES * size) if size > FREE_BYTES else None

    @property
    def most_streams(self) -> int:
        """The number of streams that may be open: each may have a part of a message in memory."""
        return max(LEAST_STREAMS, self._limits.budget.limit_bytes // self._limits.max_bytes)

    async def keep_sweeping(self) -> None:
        """Charges or ends what takes long, for ever."""
        while True:
            await asyncio.sleep(GRACE_SECONDS)
            self.sweep(time.monotonic())

    def sweep(self, now: float) -> None:
        """Charges or ends what takes long."""
        for wait in list(self._waits):
            seconds = now - wait.started
            if seconds > READ_SECONDS:
                wait.end(
                    SlowRequest(
                        f"the message is incomplete after {READ_SECONDS} s: "
                        "send it faster, or a smaller image"
                    )
                )
            elif seconds > GRACE_SECONDS and wait.lease is None:
                self._charge(wait)

    def _charge(self, wait: Wait) -> None:
        try:
            wait.lease = self._limits.budget.take(self._limits.max_bytes)
        except RequestError as error:
            wait.end(error)
