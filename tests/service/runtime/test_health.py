"""A device that fails every run is noticed, tested and given up; one that recovers is used."""

import asyncio
import time

import httpx
import pytest

from service.errors import Unavailable
from service.runtime import health
from service.runtime.engine import Engine
from service.runtime.health import EXIT_CODE, LIMIT, Health
from support.images import draw, encode
from support.servers import ROOT, Server, descendants, eventually

IMAGE, PNG = encode(draw("red")), {"content-type": "image/png"}
FAILURE = RuntimeError("the device is gone")


class Ended(Exception):
    """The process would have ended."""


def failed(runs):
    tested = Health()
    for _ in range(runs):
        tested.failed(FAILURE)
    return tested


def test_a_success_ends_the_row_of_failures():
    tested = failed(LIMIT - 1)
    tested.succeeded()
    tested.failed(FAILURE)
    assert not tested.failing
    assert failed(LIMIT).failing


def test_failures_leave_one_trace_and_a_count(caplog):
    counted = []

    class Counter:
        def inc(self):
            counted.append(1)

    tested = Health(Counter())
    for _ in range(1_000):
        tested.failed(FAILURE)
    (record,) = caplog.records
    assert record.exc_info
    assert len(counted) == 1_000


def watched(monkeypatch, outcomes):
    """What a worker with a failing device shows, whose self-tests end in `outcomes`."""
    monkeypatch.setattr(health, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(health, "PAUSE_SECONDS", 0.01)
    states, remaining, tested = [], list(outcomes), failed(LIMIT)

    def self_test():
        if not remaining.pop(0):
            raise FAILURE

    def end(code):
        states.append(code)
        raise Ended

    async def run():
        watching = asyncio.create_task(tested.watch(self_test, states.append, end))
        await eventually(lambda: not remaining and len(states) > 1)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    asyncio.run(run())
    return states


@pytest.mark.parametrize(
    ("outcomes", "states"),
    [
        ([True], [False, True]),
        ([False, True], [False, True]),
        ([False, False], [False, EXIT_CODE]),
    ],
)
def test_the_self_test_decides_and_has_a_second_chance(outcomes, states, monkeypatch):
    assert watched(monkeypatch, outcomes) == states


def test_an_engine_notes_its_runs_and_answers_for_its_device(embedded, monkeypatch):
    engine = Engine(embedded, "cpu", 1)
    batch = draw("red")[None]

    def broken(*_):
        raise FAILURE

    with monkeypatch.context() as patched:
        for programs in (engine._sessions.all_cores, engine._sessions.one_core):
            for graph in programs:
                patched.setitem(programs, graph, broken)
        for _ in range(LIMIT):
            assert not engine.health.failing
            with pytest.raises(Unavailable, match="inference failed on CPUExecutionProvider"):
                engine.on_one_core().predict(batch)
        assert engine.health.failing
        with pytest.raises(RuntimeError, match="the device is gone"):
            engine.self_test()
    engine.self_test()
    assert engine.health.failing
    engine.predict(batch)
    assert not engine.health.failing


class SickServer(Server):
    """A server whose device fails while `fault` exists."""

    def __init__(self, folder, **settings):
        super().__init__(folder, **settings)
        self.fault = folder / "fault"
        self.environment |= {
            "PYTHONPATH": f"{ROOT / 'support/sick_device'}",
            "SICK_DEVICE": str(self.fault),
        }

    def predict(self):
        return httpx.post(f"{self.url}/predict", content=IMAGE, headers=PNG, timeout=10).status_code

    def readiness(self):
        return {
            path: httpx.get(f"{self.url}{path}", timeout=5).status_code
            for path in ("/readyz", "/v2/health/ready", "/livez")
        }

    def fail(self):
        """Breaks the device; returns when the server is not ready, within five seconds."""
        self.fault.touch()
        began = time.monotonic()
        assert [self.predict() for _ in range(LIMIT)] == [503] * LIMIT
        while self.readiness()["/readyz"] == 200:
            assert time.monotonic() - began < 5
            time.sleep(0.05)


def test_a_server_with_a_broken_device_is_unready_within_seconds_and_its_worker_ends(tmp_path):
    with SickServer(tmp_path, workers=1) as server:
        worker = set(descendants(server.process.pid))
        assert server.predict() == 200
        server.fail()
        assert server.readiness() == {"/readyz": 503, "/v2/health/ready": 503, "/livez": 200}
        assert server.metric("candor_device_failures_total") >= LIMIT
        assert server.metric("candor_ready") == 0
        end = time.monotonic() + 15
        while "the worker ends" not in server.log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
        text = server.log.read_text()
        assert "the device fails its self-test, too: the worker ends" in text
        assert text.count("Traceback") == 1, text
        server.fault.unlink()
        server.wait_for_processes(1)
        assert server.predict() == 200
        assert set(descendants(server.process.pid)) != worker


def test_a_bad_image_is_no_failure_of_the_device_and_one_that_recovers_is_ready_again(tmp_path):
    with SickServer(tmp_path, workers=1) as server:
        for _ in range(3 * LIMIT):
            bad = server.client.post("/predict", content=IMAGE[:100], headers=PNG)
            assert bad.status_code == 422
        assert server.client.get("/readyz").status_code == 200
        assert server.metric("candor_device_failures_total") == 0
        server.fail()
        server.fault.unlink()
        server.wait_for_processes(1)
        assert server.readiness() == {"/readyz": 200, "/v2/health/ready": 200, "/livez": 200}
        assert server.predict() == 200
