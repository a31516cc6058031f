"""Responses and log lines carry an id; the log is text or JSON; traces go to a collector."""

import json
import logging
import re
import socket

import pytest

from service.telemetry import logs
from support.collector import Collector
from support.images import draw, encode
from support.servers import Server

IMAGE = encode(draw())
PNG = {"content-type": "image/png"}


def test_an_answer_has_the_id_that_the_caller_gave(server):
    for path in ("/model", "/nothing", "/metrics", "/v2/health/live"):
        assert (
            server.client.get(path, headers={"x-request-id": "shop-7/42"}).headers["x-request-id"]
            == "shop-7/42"
        )


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "<script>", "é".encode()])
def test_an_answer_has_an_id_of_its_own_where_the_caller_gave_none_that_is_sane(given, server):
    headers = {} if given is None else {"x-request-id": given}
    ids = [
        server.client.get("/model", headers=headers).headers.get_list("x-request-id")
        for _ in range(3)
    ]
    assert all(len(found) == 1 and re.fullmatch(r"[0-9a-f]{12}-\d+", found[0]) for found in ids)
    assert len({found[0] for found in ids}) == 3


def test_good_requests_are_not_logged_by_default(server):
    server.client.get("/model", headers={"x-request-id": "silent-1"})
    assert "silent-1" not in server.log.read_text()


def test_an_access_log_in_text_has_a_line_a_request_with_its_id(tmp_path):
    with Server(tmp_path, access_log="true", workers=1) as server:
        headers = PNG | {"x-request-id": "mine", "user-agent": 'a "shop"'}
        server.client.post("/predict", content=IMAGE, headers=headers)
        server.client.get("/odd%0Apath%20x")
        server.client.get("/metrics")
        server.client.get("/readyz")
    lines = re.findall(r"\[INFO\] \[candor\] ((?:GET|POST) .+)", server.log.read_text())
    assert len(lines) == 2
    details = (
        r"outcome=answered model=cifar10 version=[0-9a-f]{12} images=1 "
        rf'bytes_in={len(IMAGE)} bytes_out=\d+ user_agent="a \\"shop\\""'
    )
    assert re.fullmatch(rf"POST /predict 200 \d+\.\d ms \(request mine\) {details}", lines[0])
    path, identity = "/odd%0Apath%20x", r"\(request [0-9a-f]{12}-\d+\)"
    details = r'outcome=invalid problem=not_found bytes_out=\d+ user_agent="[^"]+"'
    assert re.fullmatch(rf"GET {path} 404 \d+\.\d ms {identity} {details}", lines[1])


def test_a_log_in_json_is_json_in_every_line(traced):
    log, _ = traced
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(
        *(set(line) for line in lines)
    )
    access, *_ = [line for line in lines if line["logger"] == "candor.access"]
    assert re.fullmatch("[0-9a-f]{12}", access["version"])
    assert re.fullmatch("[0-9a-f]{32} [0-9a-f]{16}", f"{access['trace_id']} {access['span_id']}")
    unsure = {"time", "message", "milliseconds", "version", "trace_id", "span_id", "bytes_out"}
    assert {name: value for name, value in access.items() if name not in unsure} == {
        "level": "INFO",
        "logger": "candor.access",
        "request_id": "mine",
        "trace_flags": "01",
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "outcome": "answered",
        "model": "cifar10",
        "images": 1,
        "bytes_in": len(IMAGE),
        "user_agent": access["user_agent"],
    }
    assert unsure <= access.keys()
    assert any(re.match(r"Candor: http://127\.0\.0\.1:", line["message"]) for line in lines)
    assert any(line["message"].startswith("1 invalid HTTP requests") for line in lines)


@pytest.fixture
def loggers():
    """The loggers that `logs.configure` changes, restored afterwards."""
    names = ("candor", "bentoml", "uvicorn.access")
    before = [(logging.getLogger(name), vars(logging.getLogger(name)).copy()) for name in names]
    yield
    for logger, attributes in before:
        vars(logger).update(attributes)
        logger.setLevel(attributes["level"])


@pytest.mark.usefixtures("loggers")
@pytest.mark.parametrize(
    ("level", "expected"),
    [(logging.INFO, logging.WARNING), (logging.DEBUG, logging.DEBUG)],
    ids=["as it starts", "debugging"],
)
def test_bentoml_is_quiet_unless_it_is_debugged_and_logs_json_as_candor_does(level, expected):
    bentoml = logging.getLogger("bentoml")
    bentoml.setLevel(level)
    bentoml.handlers = [logging.StreamHandler()]
    logs.configure("json")
    assert bentoml.level == expected
    assert isinstance(bentoml.handlers[0].formatter, logs.JsonFormatter)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The log in JSON and the spans of a server that was asked, and has ended."""
    with Collector() as collector:
        settings = {"access_log": "true", "log_format": "json", "workers": 1}
        settings["otlp_endpoint"] = collector.url
        with Server(tmp_path_factory.mktemp("traced"), **settings) as server:
            with socket.create_connection(("127.0.0.1", server.port)) as wire:
                wire.sendall(b"nonsense\r\n\r\n")
                assert wire.recv(1000)
            mine = PNG | {"x-request-id": "mine"}
            server.client.post("/predict?top_k=2", content=IMAGE, headers=mine)
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            headers = PNG | {"traceparent": parent, "x-request-id": "traced-1"}
            answer = server.client.post("/explain?method=saliency", content=IMAGE, headers=headers)
            assert answer.status_code == 200
            server.client.get("/nothing")
        collector.shutdown()
    return server.log.read_text(), collector.spans


def test_a_trace_has_a_span_for_each_stage_within_the_request(traced):
    _, spans = traced
    (root,) = [span for span in spans if span.name == "POST /explain"]
    assert len({span.span_id for span in spans}) == len(spans)
    assert root.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    attributes = {attribute.key: attribute.value for attribute in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["candor.request_id"].string_value == "traced-1"
    stages = [span for span in spans if span.parent_span_id == root.span_id]
    names = [span.name for span in sorted(stages, key=lambda span: span.start_time_unix_nano)]
    assert names == ["read", "decode", "queue", "infer", "queue", "explain", "render", "encode"]
    for stage in stages:
        assert (
            root.start_time_unix_nano
            <= stage.start_time_unix_nano
            <= stage.end_time_unix_nano
            <= root.end_time_unix_nano
        )
