"""What surrounds every call: its id, key, count, log, errors, and the end of the worker.

As for HTTP, nothing of a message is read before its caller has shown a key and the queue a place.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from grpc.aio import ServicerContext

from service.api import problems
from service.api.access.guard import OPEN, Guard, Needs
from service.api.access.keys import Key
from service.api.grpc import SERVICE, status
from service.api.middleware import ObservationMiddleware
from service.api.tasks import caller
from service.errors import RequestError, Unavailable
from service.image.budget import Lease
from service.schedule.allowance import Caller
from service.telemetry import logs
from service.workers.drain import Drain

REQUEST_ID, AUTHORIZATION = "x-request-id", "authorization"
STOPPING = "the service is stopping: ask another replica"
FAILING = "inference fails here: ask another replica"
CUT = "the service has stopped before this was answered: ask another replica"
OK = 200

Answer = Callable[["Call"], Awaitable[bytes]]
Handler = Callable[[Any, Any], Awaitable[bytes]]


@dataclass
class Call:
    """One call: its `context`, with raw messages, and the key that it came with, if keys are on."""

    context: ServicerContext[Any, Any]
    key: Key | None = None
    leases: list[Lease] = field(default_factory=list)  # released at the end of the call

    @cached_property
    def caller(self) -> Caller:
        """The caller that time and allowances are shared by."""
        kind, _, address = unquote(self.context.peer()).partition(":")
        # A Unix socket has no addresses.
        host = address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else ""
        return caller(self.key, host)

    def release(self) -> None:
        """Gives the memory of its message back."""
        for lease in self.leases:
            lease.release()

    @property
    def seconds_left(self) -> float | None:
        """The time that the caller still waits; None without an end."""
        left: float | None = self.context.time_remaining()
        return left


class Calls:
    """Makes handlers of methods; each gets the raw bytes of one message, and returns those of its
    answer.
    """

    def __init__(self, guard: Guard, observation: ObservationMiddleware, drain: Drain) -> None:
        self.drain = drain
        self.called_at = float("-inf")  # the latest, of `time.monotonic`
        self._guard = guard
        self._observation = observation

    def key_of(self, metadata: Mapping[str, str | bytes], needs: Needs) -> Key | None:
        """The key of a call with this metadata.

        Raises:
            RequestError: it does not open what `needs` a key of these scopes.
        """
        given = metadata.get(AUTHORIZATION)
        return self._guard.key_for(given.encode() if isinstance(given, str) else given, needs)

    def handler(self, name: str, needs: Needs, answer: Answer) -> Handler:
        """The handler of a method: `answer`, for callers that may have it, counted."""

        async def handle(_messages: Any, context: ServicerContext[Any, Any]) -> bytes:
            return await self._handle(name, needs, answer, Call(context))

        return handle if needs != OPEN else _probe(answer)

    async def _handle(self, name: str, needs: Needs, answer: Answer, call: Call) -> bytes:
        started, number = time.perf_counter(), problems.GONE
        metadata = dict(call.context.invocation_metadata() or ())
        trailing = ((REQUEST_ID, self.identify(metadata)),)
        try:
            call.context.set_trailing_metadata(trailing)
            call.key = self.key_of(metadata, needs)
            answered = await self.answered(answer, call)
            number = OK
        except Exception as failure:
            error = failure if isinstance(failure, RequestError) else problems.defect(failure)
            number = error.status
            await refuse(call.context, error, trailing)
            raise AssertionError from failure  # the line above has raised
        else:
            return answered
        finally:
            call.release()
            self.count(call, name, number, time.perf_counter() - started)

    async def answered(self, answer: Answer, call: Call) -> bytes:
        """The answer, as long as the worker may give one.

        Raises:
            RequestError: it may not, or there is no answer.
        """
        noted = self._observation.begin_call()
        try:
            answered = await self._within_drain(answer, call)
        except RequestError as error:
            if noted is not None:
                noted.fail(error)
            raise
        if noted is not None:
            noted.bytes_out = len(answered)
        return answered

    async def _within_drain(self, answer: Answer, call: Call) -> bytes:
        drain, self.called_at = self.drain, time.monotonic()
        if drain.rejecting:
            drain.rejected()
            raise Unavailable(STOPPING if drain.stopping else FAILING, reason="stopping")
        task = drain.begin()
        try:
            return await answer(call)
        except asyncio.CancelledError:
            if not drain.cancelling:
                raise
            task.uncancel()
            raise Unavailable(CUT, reason="stopping") from None
        finally:
            drain.end(task)

    def count(self, call: Call, name: str, number: int, seconds: float) -> None:
        """Counts a request to a method by the number of its HTTP status."""
        self._observation.count_call(call.key, f"/{SERVICE}/{name}", number, seconds)

    def identify(self, metadata: Mapping[str, str | bytes]) -> str:
        """The id of a call, which its lines in the log carry from now on."""
        given = metadata.get(REQUEST_ID, "")
        found = self._observation.request_id(given.encode() if isinstance(given, str) else given)
        logs.request_id.set(found.decode())
        return found.decode()


def _probe(answer: Answer) -> Handler:
    """The handler of a probe, which is answered until the worker ends."""

    async def handle(_messages: Any, context: ServicerContext[Any, Any]) -> bytes:
        call = Call(context)
        try:
            return await answer(call)
        except RequestError as error:
            await refuse(context, error)
            raise
        finally:
            call.release()

    return handle


async def refuse(
    context: ServicerContext[Any, Any],
    error: RequestError,
    trailing: tuple[tuple[str, str], ...] = (),
) -> None:
    """Ends a call with an error."""
    await context.abort(
        status.code_of(error), error.detail, (*trailing, *status.metadata_of(error))
    )
