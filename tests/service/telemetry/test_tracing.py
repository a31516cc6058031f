"""Spans, and lines of the access log, say which model answered what, how, and why not."""

import base64
import json
import socket
import time

import pytest
from starlette.responses import Response

from service.api.access.keys import SCOPES, make
from service.api.overload import parse
from service.telemetry.account import MOST_AGENT, MOST_LABELS, Account
from service.telemetry.tracing import EARLY_SPANS, TracingMiddleware
from support.collector import SECONDS, Collector, facts
from support.images import draw, encode
from support.servers import Server

IMAGE = encode(draw())
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0{sampled}"
AGENT = 'shop/1.0 "é" \\' + 200 * "x"


class Asking:
    """A server with keys that logs and traces, its collector, and callers of it."""

    def __init__(self, server, collector, keys):
        self.server, self.collector, self.keys = server, collector, keys

    def send(self, name, path, content=IMAGE, key="camera", **headers):
        """The status of a POST with the id `name`."""
        given = {
            "content-type": "image/png",
            "authorization": f"Bearer {self.keys[key]}",
            "x-request-id": name,
        }
        if isinstance(content, dict):
            given["content-type"], content = "application/json", json.dumps(content)
        answer = self.server.client.post(path, content=content, headers=given | headers)
        return answer.status_code

    def get(self, path):
        key = {"authorization": f"Bearer {self.keys['camera']}"}
        return self.server.client.get(path, headers=key)

    def span(self, name):
        return facts(self.collector.named(name))

    def line(self, name):
        """The line of the request `name`, as soon as it is written: its answer has left before."""
        end = time.monotonic() + SECONDS
        while not (found := [line for line in self.lines() if line.get("request_id") == name]):
            assert time.monotonic() < end, f"no line of the request {name} in {SECONDS} s"
            time.sleep(0.05)
        (access,) = [line for line in found if line["logger"] == "candor.access"]
        return access

    def lines(self):
        whole, _, _ = self.server.log.read_text().rpartition("\n")
        return map(json.loads, whole.splitlines())


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking")
    made = {"camera": make("camera", SCOPES), "small": make("small", SCOPES, passes=1)}
    (folder / "keys").touch(0o600)
    (folder / "keys").write_text("\n".join(line for _, line in made.values()))
    settings = {"access_log": "true", "log_format": "json", "workers": 1, "trace_labels": "true"}
    with Collector() as collector:
        server = Server(folder, keys=folder / "keys", otlp_endpoint=collector.url, **settings)
        server.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
        with server:
            yield Asking(server, collector, {name: secret for name, (secret, _) in made.items()})
        collector.shutdown()


def pair(*images):
    return {"images": [base64.b64encode(image).decode() for image in images]}


def test_a_span_and_a_log_line_name_the_model_the_caller_and_what_was_sent(asking):
    headers = {"traceparent": PARENT.format(sampled=1), "user-agent": "shop/1.0"}
    assert asking.send("one", "/predict", **headers) == 200
    model = asking.get("/model").json()
    span, line = asking.span("one"), asking.line("one")
    label = span["candor.labels"][0]
    assert label in model["labels"]
    assert span | {"http.response.body.size": 0} == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "http.request.body.size": len(IMAGE),
        "http.response.body.size": 0,
        "user_agent.original": "shop/1.0",
        "candor.request_id": "one",
        "candor.outcome": "answered",
        "candor.images": 1,
        "candor.model.name": model["name"],
        "candor.model.version": model["version"],
        "candor.labels": [label],
        "candor.key": "camera",
    }
    assert span["http.response.body.size"] > 100
    traced = asking.collector.named("one")
    assert line | {"time": "", "message": "", "milliseconds": 0} == {
        "time": "",
        "level": "INFO",
        "logger": "candor.access",
        "message": "",
        "request_id": "one",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": traced.span_id.hex(),
        "trace_flags": "01",
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "milliseconds": 0,
        "outcome": "answered",
        "model": model["name"],
        "version": model["version"],
        "images": 1,
        "labels": [label],
        "bytes_in": len(IMAGE),
        "bytes_out": span["http.response.body.size"],
        "key": "camera",
        "user_agent": "shop/1.0",
    }


def test_stages_name_their_lane_their_batch_and_the_method(asking):
    assert asking.send("four", "/predict", pair(*[IMAGE] * 4)) == 200
    span = asking.collector.named("four")
    assert facts(span)["candor.images"] == 4
    infer = asking.collector.stages(span)["infer"]
    assert infer["candor.lane"] == "predict"
    assert 2 <= infer["candor.batch_size"] <= 4
    assert asking.send("map", "/explain?method=integrated_gradients") == 200
    span = asking.collector.named("map")
    assert facts(span)["candor.method"] == "integrated_gradients"
    stages = asking.collector.stages(span)
    assert stages["explain"] == {"candor.lane": "explain", "candor.method": "integrated_gradients"}
    assert stages["decode"] == {}
    assert asking.line("map")["explanation"] == "integrated_gradients"


def test_a_cheaper_explanation_is_degraded_and_names_both_methods(asking):
    described = asking.get("/methods").json()["methods"]
    (shap,) = [each for each in described if each["name"] == "kernel_shap"]
    (samples,) = [each["maximum"] for each in shap["parameters"] if each["name"] == "samples"]
    seconds = shap["seconds"] * samples / shap["forward_passes"]
    path = f"/explain?method=kernel_shap&samples={samples}&deadline_ms={500 * seconds:.0f}"
    assert asking.send("less", path) == 200
    span, line = asking.span("less"), asking.line("less")
    assert (span["candor.outcome"], line["outcome"]) == ("degraded", "degraded")
    assert span["candor.degraded_from"] == line["degraded_from"] == "kernel_shap"
    stage = asking.collector.stages(asking.collector.named("less"))["explain"]
    assert stage["candor.method"] == span["candor.method"] == line["explanation"]


def test_a_rejection_names_its_reason_and_a_bad_image_its_problem(asking):
    spent = {"key": "small"}
    assert asking.send("first", "/explain?method=integrated_gradients", **spent) == 200
    assert asking.send("spent", "/predict", **spent) == 429
    assert asking.send("cut", "/predict", IMAGE[:50]) == 422
    assert asking.send("half", "/predict", pair(IMAGE, IMAGE[:50])) == 200
    expected = {
        "spent": ("rejected", "too_many_requests", "allowance_passes", "small"),
        "cut": ("invalid", "undecodable_picture", None, "camera"),
        "half": ("partial", "undecodable_picture", None, "camera"),
    }
    for name, found in expected.items():
        span, line = asking.span(name), asking.line(name)
        names = ("candor.outcome", "error.type", "candor.reason", "candor.key")
        assert tuple(map(span.get, names)) == found, name
        assert tuple(map(line.get, ("outcome", "problem", "reason", "key"))) == found, name
        assert span["candor.model.name"] == "cifar10"
    assert asking.span("half")["candor.failed_images"] == 1


def test_a_caller_that_leaves_is_cancelled(asking):
    key = asking.keys["camera"]
    head = (
        "POST /explain?method=kernel_shap&samples=4096&deadline_ms=60000 HTTP/1.1\r\n"
        f"host: localhost\r\nauthorization: Bearer {key}\r\nx-request-id: gone\r\n"
        f"content-type: image/png\r\ncontent-length: {len(IMAGE)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", asking.server.port)) as wire:
        wire.sendall(head.encode() + IMAGE)
        while 'candor_in_flight{lane="explain"} 1.0' not in asking.get("/metrics").text:
            time.sleep(0.02)
    span = asking.span("gone")
    assert (span["candor.outcome"], span["http.response.status_code"]) == ("cancelled", 499)
    assert span["candor.method"] == "kernel_shap"


def test_an_unsampled_trace_has_its_ids_in_the_log_and_no_span(asking):
    parent = {"traceparent": PARENT.format(sampled=0)}
    assert asking.send("unseen", "/predict", **parent) == 200
    assert asking.send("seen", "/predict") == 200
    line = asking.line("unseen")
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert line["trace_flags"] == "00"
    asking.span("seen")
    assert not [s for s in asking.collector.spans if facts(s).get("candor.request_id") == "unseen"]


def test_probes_and_scrapes_have_no_span_and_a_user_agent_is_cut(asking):
    for path in ("/metrics", "/v2/health/live", "/nothing"):
        asking.get(path)
    assert asking.send("tail", "/predict", **{"user-agent": AGENT.encode("latin-1")}) == 200
    assert asking.line("tail")["user_agent"] == AGENT[:MOST_AGENT]
    assert asking.span("tail")["user_agent.original"] == AGENT[:MOST_AGENT]
    names = {span.name for span in asking.collector.spans if not span.parent_span_id}
    assert not [
        name for name in names if "metrics" in name or "health" in name or "GET /no" in name
    ]


def test_of_the_rejections_before_a_task_few_a_second_have_a_span():
    head = parse(b"POST /predict HTTP/1.1\r\ncontent-length: 5\r\n\r\n", {"/predict"})
    with Collector() as collector:
        tracing = TracingMiddleware(Response(), collector.url)
        began, traced = int(time.monotonic()), 0
        for _ in range(10 * EARLY_SPANS):
            noted = Account(route="/predict", status=429, reason="queue_full")
            tracing.trace_early(head, noted, 0.001)
            traced += noted.trace is not None
        seconds = 1 + int(time.monotonic()) - began
        tracing.close()
        collector.shutdown()
    assert EARLY_SPANS <= traced <= EARLY_SPANS * seconds < 10 * EARLY_SPANS
    assert len(collector.spans) == traced
    for span in collector.spans:
        assert span.name == "POST /predict"
        assert facts(span)["candor.reason"] == "queue_full"
        assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(1e6, rel=0.01)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "answered"),
        (304, "answered"),
        (404, "invalid"),
        (429, "rejected"),
        (499, "cancelled"),
        (500, "failed"),
        (503, "rejected"),
        (504, "late"),
    ],
)
def test_every_status_is_one_outcome(status, outcome):
    assert Account(status=status).outcome == outcome


def test_an_account_keeps_few_labels():
    noted = Account()
    for number in range(2 * MOST_LABELS):
        noted.predict(str(number))
    assert noted.labels == [str(number) for number in range(MOST_LABELS)]
