"""A collector of traces for tests: OTLP over HTTP, as OpenTelemetry's exporter sends it."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 20  # until a span arrives; the exporter of a server in a test sends every half second


class Collector(ThreadingHTTPServer):
    """Receives traces as OpenTelemetry's collector does, on a free port of loopback; without `keep`
    it reads and forgets them.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.spans: list[Span] = []
        self.keep = keep
        super().__init__(("127.0.0.1", 0), _Receiver)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The address for CANDOR_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"

    def named(self, request_id: str) -> Span:
        """The span of the request with this id, as soon as it has arrived.

        Raises:
            AssertionError: It does not arrive within SECONDS.
        """
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for span in list(self.spans):
                if facts(span).get("candor.request_id") == request_id:
                    return span
            time.sleep(0.05)
        raise AssertionError(f"no span of the request {request_id} arrived in {SECONDS} s")

    def stages(self, span: Span) -> dict[str, dict[str, Any]]:
        """The attributes of each stage of a request, the last of each name."""
        inner = [each for each in self.spans if each.parent_span_id == span.span_id]
        return {each.name: facts(each) for each in inner}


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.keep:
            sent = ExportTraceServiceRequest.FromString(body)
            self.server.spans += [
                span for r in sent.resource_spans for scope in r.scope_spans for span in scope.spans
            ]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def facts(span: Span) -> dict[str, Any]:
    """The attributes of a span."""
    return {attribute.key: _value(attribute.value) for attribute in span.attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))
