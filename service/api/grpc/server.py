"""The server of gRPC in a worker: the protocol, health and reflection on a port of their own.

All workers listen on the same port (SO_REUSEPORT): the system gives each connection to one of them.
A connection is asked to end after AGE_SECONDS (GOAWAY; calls go on, and the next one connects
again), for two reasons: callers that keep a connection spread over the workers, and within the
window of a stop (`service.workers.drain`) all of them go elsewhere without losing a call.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from service.api import body as request_body
from service.api.access.guard import DOCUMENTS, Guard
from service.api.grpc import NEEDS, SERVICE, STREAM, calls, messages
from service.api.grpc.calls import Calls
from service.api.grpc.methods import Methods
from service.api.grpc.reading import Reads
from service.api.grpc.streams import Streams
from service.api.middleware import ObservationMiddleware
from service.api.models.endpoints import Answers
from service.api.models.repository import Repository
from service.errors import MethodNotAllowed, RequestError, SettingsError
from service.repository.shelf import Shelf
from service.settings import Settings
from service.workers.drain import WINDOW_SECONDS, Drain

AGE_SECONDS = 4.0  # of a connection, a tenth more or less: less than WINDOW_SECONDS
HANDSHAKE_SECONDS = 10.0
PING_SECONDS = 20.0  # after which a silent connection is asked whether its caller lives
LEAST_PING_SECONDS = 5.0  # between two questions of a caller
MOST_STREAMS = 256  # calls at once on a connection
MOST_CALLS = 1_024  # at once in a worker, of which the queue takes half
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
REFUSED = "no memory is shared, and nothing is set by callers: {} is not served"


class Server:
    """The server; an `Entrance` of `service.workers.drain`."""

    def __init__(
        self,
        shelf: Shelf[Answers],
        models: Repository,
        guard: Guard,
        observation: ObservationMiddleware,
        drain: Drain,
        settings: Settings,
    ) -> None:
        budgets = shelf.default.answers.pipeline.budgets  # the same for all models
        limits = request_body.Limits(settings.max_body_bytes, budgets.bodies)
        self._reads = Reads(limits)
        self._calls = Calls(guard, observation, drain)
        methods = Methods(shelf, models, self._reads, self._calls)
        self._streams = Streams(methods, self._reads, self._calls)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=_options(settings), maximum_concurrent_rpcs=MOST_CALLS
        )
        self._server.add_generic_rpc_handlers((self._handlers(methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_ServerReflectionServicer_to_server(_Reflection(self._calls), self._server)
        self._port = settings.grpc_port
        self._background = set[asyncio.Task[None]]()
        drain.attach(self)

    async def start(self, host: str) -> None:
        """Accepts connections at the address `host`.

        Raises:
            SettingsError: the port cannot be listened on.
        """
        address = f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise SettingsError(
                f"CANDOR_GRPC_PORT is {self._port}, and {address} cannot be listened on ({error}): "
                "name a free port"
            ) from None
        await self._server.start()
        self._later(self._reads.keep_sweeping())
        self.show(ready=True)

    @property
    def quiet(self) -> bool:
        """True once no caller of before has a connection that it may send on."""
        return time.monotonic() - self._calls.called_at > WINDOW_SECONDS

    def show(self, *, ready: bool) -> None:
        """Lets the health service answer so."""
        for name in ("", SERVICE):
            self._later(self._health.set(name, SERVING if ready else NOT_SERVING))

    def reject(self) -> None:
        """Ends the streams; the handlers of calls reject by themselves.

        Connections end with the process: their callers see UNAVAILABLE, which they may retry. The
        stop of gRPC's own server cancels calls that come meanwhile, which they may not.
        """
        self._streams.end()

    def _handlers(self, methods: Methods) -> grpc.GenericRpcHandler:
        # Raw bytes go in and out: they are parsed within the limits, and on a thread where large.
        # As streams of one message they are read when the handler wants them, not before.
        answers = methods.answers()
        found = {
            name: grpc.stream_unary_rpc_method_handler(
                self._calls.handler(name, NEEDS[name], answer)
            )
            for name, answer in answers.items()
        }
        found[STREAM] = grpc.stream_stream_rpc_method_handler(self._streams.handle)
        for name in messages.METHODS:
            found.setdefault(name, grpc.stream_unary_rpc_method_handler(_refusal(name)))
        return grpc.method_handlers_generic_handler(SERVICE, found)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class _Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc] # it is untyped
    """The reflection service, for callers that may read the documents."""

    def __init__(self, calls: Calls) -> None:
        super().__init__([SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME])
        self._calls = calls

    async def ServerReflectionInfo(  # noqa: N802 - gRPC's name
        self, request_iterator: AsyncIterable[Any], context: Any
    ) -> AsyncIterator[Any]:
        """Answers questions about services and messages."""
        try:
            self._calls.key_of(dict(context.invocation_metadata() or ()), DOCUMENTS)
        except RequestError as error:
            await calls.refuse(context, error)
        async for answer in super().ServerReflectionInfo(request_iterator, context):
            yield answer


def _refusal(name: str) -> Any:
    async def handle(_messages: Any, context: Any) -> bytes:
        await calls.refuse(context, MethodNotAllowed(REFUSED.format(name)))
        raise AssertionError  # the line above has raised

    return handle


def _options(settings: Settings) -> list[tuple[str, int]]:
    """The options of gRPC's core; times are milliseconds."""
    most = settings.max_connections
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.max_connection_age_ms", round(1000 * AGE_SECONDS)),
        *(
            # A stream may keep its connection so long.
            [("grpc.max_connection_age_grace_ms", 1000 * settings.connection_seconds)]
            if settings.connection_seconds
            else []
        ),
        *([("grpc.max_allowed_incoming_connections", most)] if most else []),
        ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_SECONDS)),
        ("grpc.keepalive_time_ms", round(1000 * PING_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", round(1000 * LEAST_PING_SECONDS)),
    ]
