"""Traces over OpenTelemetry (OTLP over HTTP): a span for each request, in it a span for each stage
(decode, queue, infer, explain …).

They exist only where CANDOR_OTLP_ENDPOINT is set. Nothing is measured for them: a request's span
begins with it, so that its lines in the log have the ids, and gets its attributes and its stages
from its account when it has been answered; a thread sends them. Probes, scrapes and paths that no
route serves have none. A caller's `traceparent` is continued. OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES and OTEL_BSP_… hold as OpenTelemetry defines them.

Rejections that no task is made for (`service.api.overload`) have a span, too, at most EARLY_SPANS a
second in each worker: they must stay cheap where most answers are rejections.
"""

import time
from collections.abc import Iterable, Iterator

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import ASGIApp, Receive, Scope, Send

import service
from service.telemetry import account, logs
from service.telemetry.account import Account, Stage, Trace
from service.workers.protocol import RequestHead

PATH = "/v1/traces"
CONTEXT = (b"traceparent", b"tracestate")
EARLY_SPANS = 10  # a second
Headers = Iterable[tuple[bytes, bytes]]


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
        self._early_second, self._early_spans = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on, with an account for the request, and writes its spans afterwards."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Stages are timed by a clock that has no date; spans want the seconds since 1970.
        started = time.perf_counter()
        offset = time.time() - started
        span = self._begin(scope["method"], scope["headers"], started + offset)
        scope[account.SCOPE] = noted = Account(trace=_trace_of(span))
        try:
            await self._app(scope, receive, send)
        finally:
            # A span that is never ended is never sent.
            if noted.route and "route" in scope:
                self._end(span, scope["method"], noted, offset, time.perf_counter())

    @property
    def traces_early(self) -> bool:
        """True until there were EARLY_SPANS in this second."""
        second = int(time.monotonic())
        if second != self._early_second:
            self._early_second, self._early_spans = second, 0
        return self._early_spans < EARLY_SPANS

    def trace_early(self, head: RequestHead, noted: Account, seconds: float) -> None:
        """Makes the span of a POST that was rejected within so many seconds, unless there were
        enough in this second; `noted` gets its ids.
        """
        if not self.traces_early:
            return
        self._early_spans += 1
        ended = time.perf_counter()
        offset = time.time() - ended
        span = self._begin("POST", head.headers, ended - seconds + offset)
        noted.trace = _trace_of(span)
        self._end(span, "POST", noted, offset, ended)

    def close(self) -> None:
        """Sends the spans that are not sent yet."""
        self._provider.shutdown()

    def _begin(self, method: str, headers: Headers, at: float) -> Span:
        given = {
            name.decode(): value.decode("latin-1") for name, value in headers if name in CONTEXT
        }
        return self._tracer.start_span(
            method,
            context=self._propagator.extract(given),
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(at),
        )

    def _end(self, span: Span, method: str, noted: Account, offset: float, ended: float) -> None:
        """Ends a request's span at `ended`, with its stages in it. All times are those of
        `time.perf_counter`, which has no date: `offset` seconds more are those since 1970.
        """
        if not span.is_recording():
            return
        span.update_name(f"{method} {noted.route}")
        span.set_attributes(dict(attributes(method, noted)))
        if noted.status >= account.DEFECT:
            span.set_status(StatusCode.ERROR)
        parent = set_span_in_context(span)
        for stage in noted.stages:
            part = self._tracer.start_span(
                stage.name,
                context=parent,
                start_time=_nanoseconds(stage.ended - stage.seconds + offset),
                attributes=_facts(stage),
            )
            part.end(_nanoseconds(stage.ended + offset))
        span.end(_nanoseconds(ended + offset))


def attributes(method: str, noted: Account) -> Iterator[tuple[str, AttributeValue]]:
    """The attributes of a request's span: OpenTelemetry's names for what is HTTP's, ours below
    `candor.`; none for what is not known.
    """
    yield "http.request.method", method
    yield "http.route", noted.route
    yield "http.response.status_code", noted.status
    yield "http.request.body.size", noted.bytes_in
    yield "http.response.body.size", noted.bytes_out
    yield "candor.request_id", logs.request_id.get()
    yield "candor.outcome", noted.outcome
    yield "candor.images", noted.images
    known: dict[str, AttributeValue] = {
        "user_agent.original": noted.agent,
        "error.type": noted.problem,
        "candor.reason": noted.reason,
        "candor.model.name": noted.model,
        "candor.model.version": noted.version,
        "candor.method": noted.method,
        "candor.degraded_from": noted.degraded_from,
        "candor.labels": noted.labels,
        "candor.failed_images": noted.failed,
        "candor.key": noted.key,
    }
    yield from ((name, value) for name, value in known.items() if value)


def _facts(stage: Stage) -> dict[str, str | int]:
    return {f"candor.{name}": value for name, value in stage.facts.items()}


def _trace_of(span: Span) -> Trace:
    context = span.get_span_context()
    ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return Trace(*ids, sampled=context.trace_flags.sampled)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
