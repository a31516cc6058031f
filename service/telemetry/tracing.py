"""Traces over OpenTelemetry (OTLP over HTTP): a span for each request, in it a span for each stage
(decode, queue, infer, explain …).

They exist only where CANDOR_OTLP_ENDPOINT is set. Nothing is measured for them: spans are made from
the times of the stages when a request has been answered, and a thread sends them. A caller's
`traceparent` is continued. OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and OTEL_BSP_… hold as
OpenTelemetry defines them.
"""

import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import service
from service.telemetry import logs
from service.telemetry.stages import Stage, passed

PATH = "/v1/traces"
DEFECT = 500


class TracingMiddleware:
    """Traces the requests of `app` that a route serves."""

    def __init__(self, app: ASGIApp, endpoint: str) -> None:
        """`endpoint` is a collector's address: http://collector:4318."""
        self._app = app
        self._provider = TracerProvider(
            resource=Resource.create(
                {"service.name": "candor", "service.version": service.__version__}
            )
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + PATH)))
        self._tracer = self._provider.get_tracer("candor", service.__version__)
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, and makes the spans afterwards."""
        stages: list[Stage] = []
        passed.set(stages)
        started, status = time.perf_counter(), DEFECT

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if scope["type"] == "http" and "route" in scope:
                self._trace(scope, status, started, stages)

    def close(self) -> None:
        """Sends the spans that are not sent yet."""
        self._provider.shutdown()

    def _trace(self, scope: Scope, status: int, started: float, stages: list[Stage]) -> None:
        # Stages are timed by a clock that has no date; spans want the seconds since 1970.
        ended, offset = time.perf_counter(), time.time() - time.perf_counter()
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        route = scope["route"].path
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(started + offset),
            attributes={
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "candor.request_id": logs.request_id.get(),
            },
        )
        if status >= DEFECT:
            span.set_status(StatusCode.ERROR)
        parent = set_span_in_context(span)
        for stage in stages:
            part = self._tracer.start_span(
                stage.name,
                context=parent,
                start_time=_nanoseconds(stage.ended - stage.seconds + offset),
            )
            part.end(_nanoseconds(stage.ended + offset))
        span.end(_nanoseconds(ended + offset))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
