"""ModelStreamInfer: one call with many requests, answered in their order.

Up to AHEAD requests of a stream are computed at once. A request that fails gets an answer with
`error_message`; the stream goes on. When the worker rejects new requests, it answers those that it
has read, and ends the stream.
"""

import asyncio
import time
from typing import Any

from grpc.aio import EOF, ServicerContext

from service.api import problems
from service.api.grpc import NEEDS, STREAM, calls, messages
from service.api.grpc.calls import OK, Call, Calls
from service.api.grpc.methods import Methods
from service.api.grpc.reading import Reads
from service.errors import RequestError, TooManyRequests, Unavailable

AHEAD = 16

Answers = asyncio.Queue["asyncio.Task[bytes] | None"]


class Streams:
    """The open streams."""

    def __init__(self, methods: Methods, reads: Reads, calls: Calls) -> None:
        self._methods = methods
        self._reads = reads
        self._calls = calls
        self._readers: set[asyncio.Task[None]] = set()

    async def handle(self, _messages: Any, context: ServicerContext[Any, Any]) -> None:
        """Answers the requests of one stream."""
        call, room = Call(context), asyncio.Semaphore(AHEAD)
        try:
            self._open(call)
        except RequestError as error:
            await calls.refuse(context, error)
        answers: Answers = asyncio.Queue()
        reader = asyncio.create_task(self._read(call, answers, room))
        self._readers.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                await context.write(await answer)
                room.release()
        finally:
            self._readers.discard(reader)
            reader.cancel()
            while not answers.empty():
                if (waiting := answers.get_nowait()) is not None:
                    waiting.cancel()
        if self._calls.drain.rejecting:
            await calls.refuse(context, Unavailable(calls.STOPPING))

    def end(self) -> None:
        """Reads nothing more; what has been read is answered."""
        for reader in self._readers:
            reader.cancel()

    def _open(self, call: Call) -> None:
        metadata = dict(call.context.invocation_metadata() or ())
        call.context.set_trailing_metadata(((calls.REQUEST_ID, self._calls.identify(metadata)),))
        call.key = self._calls.key_of(metadata, NEEDS[STREAM])
        if self._calls.drain.rejecting:
            raise Unavailable(calls.STOPPING)
        if len(self._readers) >= self._reads.most_streams:
            raise TooManyRequests(
                f"{len(self._readers)} streams are open, the limit: use ModelInfer, or retry later"
            )

    async def _read(self, call: Call, answers: Answers, room: asyncio.Semaphore) -> None:
        """Begins to answer each request, until there are no more."""
        try:
            while True:
                await room.acquire()
                body = await call.context.read()
                if body is EOF:
                    return
                answers.put_nowait(asyncio.create_task(self._answer(call, body)))
        finally:
            answers.put_nowait(None)

    async def _answer(self, stream: Call, body: bytes) -> bytes:
        """The answer to one request: a response or the reason why there is none."""
        started, number = time.perf_counter(), problems.GONE
        call = Call(stream.context, stream.key)
        response = messages.ModelStreamInferResponse()
        try:
            answer = await self._calls.answered(
                lambda each: self._infer(each, body, response), call
            )
            number = OK
        except Exception as error:  # noqa: BLE001 - the stream goes on
            problem = error if isinstance(error, RequestError) else problems.defect(error)
            number, response.error_message = problem.status, problem.detail
            answer = response.SerializeToString()
        finally:
            call.release()
            self._calls.count(call, STREAM, number, time.perf_counter() - started)
        return answer

    async def _infer(self, call: Call, body: bytes, response: Any) -> bytes:
        self._methods.admit()
        started = time.perf_counter()
        if (lease := self._reads.charged(body)) is not None:
            call.leases.append(lease)
        message = await self._methods.message_of(body)
        # An answer that fails names its request, too.
        response.infer_response.model_name = message.model_name
        response.infer_response.id = message.id
        answer = await self._methods.answer(call, body, message, started)
        response.infer_response.CopyFrom(answer)
        encoded: bytes = response.SerializeToString()
        return encoded
