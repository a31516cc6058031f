"""The benchmarks measure what they say: arrivals keep their times, answers are counted, wrk's output is read."""

import asyncio
import os
import shutil

import pytest

from scripts import arrivals, load

needs_wrk = pytest.mark.skipif(
    not shutil.which("wrk") and not (shutil.which("apt-get") and os.geteuid() == 0), reason="wrk is missing and cannot be installed"
)

RAW = load.picture("/predict", b"abc").raw()
ANSWERS = {
    200: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    429: b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy",
}


class Peer:
    """A server of a few lines: answers with `statuses` in turn, each after `seconds`; 0 closes without an answer."""

    def __init__(self, statuses, seconds=0.0):
        self.statuses, self.seconds, self.arrived = statuses, seconds, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while await reader.readexactly(len(RAW)):
                status = self.statuses[len(self.arrived) % len(self.statuses)]
                self.arrived.append(asyncio.get_running_loop().time())
                await asyncio.sleep(self.seconds)
                if not status:
                    break
                for half in (ANSWERS[status][:20], ANSWERS[status][20:]):
                    writer.write(half)
                    await asyncio.sleep(0.001)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()


def opened(peer, schedule, connections):
    async def work():
        async with peer as port:
            return await arrivals.open_loop(port, [RAW], schedule, connections)

    return arrivals.run(work())


def test_an_open_loop_sends_at_its_times_while_nothing_is_answered():
    schedule = [0.02 * number for number in range(20)]
    peer = Peer([200], seconds=0.6)
    outcome = opened(peer, schedule, 20)
    assert len(outcome.answers) == len(peer.arrived) == 20
    assert max(peer.arrived) < min(answer.ended for answer in outcome.answers)
    assert [answer.number for answer in sorted(outcome.answers, key=lambda answer: answer.due)] == list(range(20))
    assert all(answer.milliseconds >= 600 for answer in outcome.answers)
    assert 0 <= outcome.lag_ms(50) < 100


def test_answers_are_counted_by_status_and_a_lost_connection_is_replaced():
    outcome = opened(Peer([200, 429, 503, 0]), [0.005 * number for number in range(40)], 8)
    assert outcome.statuses() == {200: 10, 429: 10, 503: 10, 0: 10}
    assert {answer.status for answer in outcome.answers if answer.retry_after} == {429}
    assert {answer.body for answer in outcome.answers if answer.status == 503} == {b"busy"}
    assert outcome.unsent == outcome.unanswered == 0


def test_what_is_due_without_a_free_connection_is_unsent():
    outcome = opened(Peer([200], seconds=0.3), [0.0] * 10, 4)
    assert (len(outcome.answers), outcome.unsent) == (4, 6)


def test_a_closed_loop_sends_everything_in_order():
    async def work():
        answers = []
        peer = Peer([200])
        async with peer as port:
            await arrivals.closed_loop(port, [RAW] * 50, 4, answers.append)
        return answers

    answers = arrivals.run(work())
    assert sorted(answer.number for answer in answers) == list(range(50))


def test_arrivals_are_as_many_as_the_rate_says_and_always_the_same():
    times = arrivals.poisson(1000, 2, seed=0)
    assert len(times) == 2000
    assert times == sorted(times) == arrivals.poisson(1000, 2, seed=0)
    assert times[-1] == pytest.approx(2, rel=0.1)


def test_the_output_of_wrk_is_read():
    output = """Running 2s test @ http://127.0.0.1:3000
  1 threads and 16 connections
Requests/sec:   1000.00
{"requests": 2000, "microseconds": 2000000, "p50": 1500.000000, "p99": 9250.000000, "errors": 3}
"""
    assert load.parse(output) == load.Reading(rate=1000, p50=1.5, p99=9.25, errors=3, requests=2000)
    with pytest.raises(RuntimeError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:3000 Connection refused")


def test_rounds_become_medians_and_their_errors_add_up():
    readings = [load.Reading(rate, 2 * rate, 3 * rate, 1, 10) for rate in (1.0, 9.0, 2.0)]
    assert load.median(readings) == load.Reading(2, 4, 6, 3, 30)


def test_a_mix_holds_its_shares():
    order = load.shuffled([0.9, 0.1])
    assert (order.count(0), order.count(1)) == (90, 10)


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path):
    command = ["bash", "-c", "echo nothing to serve >&2; exit 3"]
    request, log = load.picture("/predict", b""), tmp_path / "log"
    with (
        pytest.raises(RuntimeError, match="the server ended: nothing to serve"),
        load.running(command, os.environ, tmp_path, log, load.free_port(), request),
    ):
        pass


@needs_wrk
def test_wrk_drives_a_mix_against_the_service(server, tmp_path):
    body = load.jpeg("32×32")
    mix = [(load.picture("/predict", body), 0.9), (load.picture("/explain?method=grad_cam", body), 0.1)]
    reading = load.Wrk(tmp_path).drive(server.port, mix, 2, 1)
    assert reading.requests > 10
    assert reading.errors == 0
    assert 0 < reading.p50 <= reading.p99
