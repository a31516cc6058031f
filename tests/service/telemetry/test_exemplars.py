"""Exemplars lead from a bucket to the newest traced request in it, over all workers."""

import os
import subprocess
import sys

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.telemetry.account import Trace
from service.telemetry.exemplars import KEY_BYTES, MOST, SLOT, Exemplars
from service.telemetry.metrics import OPENMETRICS_TYPE
from support.collector import Collector
from support.images import draw, encode
from support.prometheus import Prometheus
from support.servers import ROOT, Server

WORK = """
import sys
from pathlib import Path
from service.telemetry.account import Trace
from service.telemetry.exemplars import Exemplars
table = Exemplars(Path(sys.argv[1]), (1.0, 2.0), lambda labels, bound: f"{labels[0][1]} {bound}")
for line in sys.stdin:
    table.note((("route", "a"),), float(line), Trace(32 * sys.argv[2], 16 * sys.argv[2], True))
    print("done", flush=True)
"""
OPEN = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
BUCKET = "candor_request_duration_seconds_bucket"


def table(folder, bounds=(1.0, 2.0)):
    return Exemplars(folder, bounds, lambda labels, bound: f"{labels[0][1]} {bound}")


def test_the_newest_of_all_processes_is_shown_and_outlives_its_process(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, tmp_path, digit],
            cwd=ROOT,
            env=os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for digit in "ab"
    ]
    try:
        for index, seconds in ((0, 0.5), (1, 0.75), (1, 1.5), (0, 2.0), (0, 9)):
            print(seconds, file=processes[index].stdin, flush=True)
            assert processes[index].stdout.readline() == "done\n"
    finally:
        for process in processes:
            process.communicate("")
    found = table(tmp_path).latest()
    assert set(found) == {"a 1.0", "a 2.0", "a inf"}
    for key, digit, seconds in (("a 1.0", "b", "0.75"), ("a 2.0", "a", "2"), ("a inf", "a", "9")):
        ids = f'{{trace_id="{32 * digit}",span_id="{16 * digit}"}}'
        assert found[key].startswith(f" # {ids} {seconds} 1"), found[key]


def test_a_half_written_or_foreign_file_costs_itself_alone(tmp_path):
    mine = table(tmp_path)
    for seconds in (0.5, 1.5):
        mine.note((("route", "a"),), seconds, Trace(32 * "c", 16 * "d", sampled=True))
    path = tmp_path / f"{os.getpid()}.exemplars"
    with path.open("r+b") as file:
        file.seek(SLOT.size - 1)
        file.write(b"\x01")
    (tmp_path / "7.exemplars").write_bytes(bytes(range(1, 255)) * 10)
    (tmp_path / "8.exemplars").write_bytes(b"x")
    assert set(mine.latest()) == {"a 2.0"}


def test_the_file_of_a_worker_never_grows(tmp_path):
    mine = table(tmp_path)
    for number in range(MOST + 50):
        mine.note((("route", str(number)),), 0.5, Trace(32 * "c", 16 * "d", sampled=True))
    mine.note((("route", KEY_BYTES * "x"),), 0.5, Trace(32 * "c", 16 * "d", sampled=True))
    assert len(mine.latest()) == MOST
    assert (tmp_path / f"{os.getpid()}.exemplars").stat().st_size == MOST * SLOT.size


def test_a_lone_process_keeps_none():
    mine = table(None)
    mine.note((("route", "a"),), 0.5, Trace(32 * "c", 16 * "d", sampled=True))
    assert mine.latest() == {}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Two workers, the Prometheus that scrapes them, and the collector of their traces."""
    folder = tmp_path_factory.mktemp("traced")
    with Collector() as collector:
        server = Server(folder, workers=2, otlp_endpoint=collector.url)
        server.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
        with server, Prometheus(folder, server.port) as prometheus:
            server.wait_for_processes(2)
            yield server, prometheus, collector
        collector.shutdown()


def ask(server, name, sampled=1, digit="a"):
    """A prediction over a connection of its own, so of any worker."""
    headers = {
        "content-type": "image/png",
        "x-request-id": name,
        "traceparent": f"00-{32 * digit}-{16 * digit}-0{sampled}",
    }
    answer = httpx.post(f"{server.url}/predict", content=encode(draw()), headers=headers)
    assert answer.status_code == 200


def shown(server):
    """The exemplars in one scrape, read by prometheus_client's own parser of OpenMetrics."""
    answer = httpx.get(f"{server.url}/metrics", headers=OPEN)
    assert answer.headers["content-type"] == OPENMETRICS_TYPE
    return [
        sample
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.exemplar is not None
    ]


def test_a_bucket_leads_to_its_trace_through_a_real_prometheus(traced):
    server, prometheus, collector = traced
    ask(server, "unsampled", sampled=0, digit="f")
    assert shown(server) == []
    for number in range(8):
        ask(server, f"asked-{number}")
    span = collector.named("asked-7")
    for sample in shown(server):
        assert (sample.name, sample.labels["route"]) == (BUCKET, "/predict")
        assert sample.exemplar.labels["trace_id"] == 32 * "a"
        assert sample.exemplar.value <= float(sample.labels["le"])
    newest = max(shown(server), key=lambda sample: sample.exemplar.timestamp)
    assert newest.exemplar.labels["span_id"] == span.span_id.hex()
    prometheus.wait_for(f'sum({BUCKET}{{route="/predict", le="+Inf"}}) >= 9')
    at = float(newest.exemplar.timestamp)
    query = {"query": BUCKET, "start": at - 60, "end": at + 60}
    found = prometheus.client.get("/api/v1/query_exemplars", params=query).json()
    assert found["status"] == "success"
    labels = [each["labels"] for series in found["data"] for each in series["exemplars"]]
    assert {"trace_id": 32 * "a", "span_id": span.span_id.hex()} in labels


def test_the_answer_to_a_scrape_follows_accept_and_is_compressed(traced):
    server, *_ = traced
    for accept, kind in (
        (None, "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "text/plain"),
        ("text/plain, application/openmetrics-text;q=0.1", "text/plain"),
        ("application/openmetrics-text;q=0", "text/plain"),
        ("application/openmetrics-text, */*;q=0.1", "application/openmetrics-text"),
        ("application/openmetrics-text;version=0.0.1;q=0.2", "application/openmetrics-text"),
    ):
        headers = {"accept-encoding": "identity"} | ({"accept": accept} if accept else {})
        answer = httpx.get(f"{server.url}/metrics", headers=headers | {})
        assert answer.headers["content-type"].startswith(kind), accept
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        assert "content-encoding" not in answer.headers
        assert answer.text.endswith("# EOF\n") == (kind != "text/plain")
    with httpx.stream("GET", f"{server.url}/metrics", headers=OPEN) as zipped:
        assert zipped.headers["content-encoding"] == "gzip"
        raw = b"".join(zipped.iter_raw())
    assert len(raw) < len(answer.content) / 6


def test_both_texts_have_the_same_values(traced):
    server, *_ = traced

    def lines(text):
        return {line.partition(" # ")[0] for line in text.splitlines() if line[0] != "#"}

    def settled():
        texts = [httpx.get(f"{server.url}/metrics", headers=h).text for h in (OPEN, {})]
        own = ("candor_cpu_seconds", "candor_memory_bytes", "candor_connections")
        return [{line for line in lines(text) if not line.startswith(own)} for text in texts]

    opened, plain = settled()
    assert opened == plain
    assert len(plain) > 400
