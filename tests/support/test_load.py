"""Loads keep their rate, answers are counted, and the generators' output is parsed."""

import asyncio
import os
import shutil
from collections import Counter

import pytest

from support import arrivals, load, rates


def needs(command):
    return pytest.mark.skipif(not shutil.which(command), reason=f"{command} is not installed")


RAW = load.image("/predict", b"abc").raw()
ANSWERS = {
    200: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    429: b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy",
}


class Peer:
    """A server of a few lines that answers with `statuses` in turn, each after `seconds`.

    Status 0 closes the connection without an answer.
    """

    def __init__(self, statuses, seconds=0.0):
        self.statuses, self.seconds, self.arrived = statuses, seconds, []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self.server.close()

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                found = arrivals.LENGTH.search(head)
                await reader.readexactly(int(found[1]))
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


def together(peer, count):
    async def work():
        async with peer as port:
            return await arrivals.together(port, [RAW] * count)

    return arrivals.run(work())


def test_requests_sent_together_do_not_wait_for_answers():
    peer = Peer([200], seconds=0.6)
    answers = together(peer, 20)
    assert len(peer.arrived) == 20
    assert max(peer.arrived) < min(answer.ended for answer in answers)
    assert sorted(answer.number for answer in answers) == list(range(20))
    assert all(answer.milliseconds >= 600 for answer in answers)


def test_answers_have_their_status_and_body_and_a_lost_connection_has_none():
    answers = together(Peer([200, 429, 503, 0]), 40)
    assert Counter(answer.status for answer in answers) == {200: 10, 429: 10, 503: 10, 0: 10}
    assert {answer.body for answer in answers if answer.status == 503} == {b"busy"}


def test_a_closed_loop_sends_everything_in_order():
    async def work():
        answers = []
        peer = Peer([200])
        async with peer as port:
            await arrivals.closed_loop(port, [RAW] * 50, 4, answers.append)
        return answers

    answers = arrivals.run(work())
    assert sorted(answer.number for answer in answers) == list(range(50))


def test_the_output_of_wrk_is_parsed(capsys):
    output = """Running 2s test @ http://127.0.0.1:3000
  1 threads and 16 connections
Requests/sec:   1000.00
{"requests": 2000, "microseconds": 2000000, "p50": 1500.000000, "p99": 9250.000000, "errors": {\
"connect": 0, "read": 1, "write": 0, "status": 2, "timeout": 0}}
"""
    assert load.parse(output) == load.Reading(rate=1000, p50=1.5, p99=9.25, errors=3, requests=2000)
    assert capsys.readouterr().err == "wrk's errors: {'read': 1, 'status': 2} of 2000 requests\n"
    with pytest.raises(RuntimeError, match="unable to connect"):
        load.parse("unable to connect to 127.0.0.1:3000 Connection refused")


def test_rounds_are_summarised_by_medians_and_their_errors_summed():
    readings = [load.Reading(rate, 2 * rate, 3 * rate, 1, 10) for rate in (1.0, 9.0, 2.0)]
    assert load.median(readings) == load.Reading(2, 4, 6, 3, 30)


def test_a_mix_keeps_its_shares():
    order = load.shuffled([0.9, 0.1])
    assert (order.count(0), order.count(1)) == (90, 10)


def test_a_server_that_ends_is_reported_with_the_last_line_of_its_log(tmp_path):
    command = ["bash", "-c", "echo nothing to serve >&2; exit 3"]
    request, log = load.image("/predict", b""), tmp_path / "log"
    with (
        pytest.raises(RuntimeError, match="the server ended: nothing to serve"),
        load.running(command, os.environ, tmp_path, log, load.free_port(), request),
    ):
        pass


@needs("wrk")
def test_wrk_drives_a_mix_against_the_service(server, tmp_path):
    body = load.jpeg("32×32")
    mix = [(load.image("/predict", body), 0.9), (load.image("/explain?method=grad_cam", body), 0.1)]
    reading = load.Wrk(tmp_path).drive(server.port, mix, 2, 1)
    assert reading.requests > 10
    assert reading.errors == 0
    assert 0 < reading.p50 <= reading.p99


def test_the_log_of_h2load_is_parsed(tmp_path):
    (tmp_path / "log").write_text("1000000\t200\t500000\n2500000\t429\t20000\n6000000\t-1\t10\n")
    first, second, lost = exchanges = rates.read(tmp_path / "log")
    assert (first.sent, first.ended, first.status) == (1.0, 1.5, 200)
    assert second.milliseconds == pytest.approx(20)
    assert lost.status == rates.LOST
    wave = rates.Wave(exchanges, 1.0, 2.0)
    assert wave.sent() == [first, second]
    assert wave.per_second(200) == 0.5


@needs("h2load")
def test_a_wave_keeps_its_rate_while_answers_are_slow(tmp_path):
    async def work():
        async with Peer([429], seconds=0.1) as port:
            request = load.Request("/predict", b"x", {"Content-Type": "image/jpeg"})
            return await asyncio.to_thread(rates.drive, port, request, 100.0, 2.0, 50, tmp_path)

    wave = arrivals.run(work())
    assert set(wave.statuses()) == {429}
    assert len(wave.sent()) / wave.seconds == pytest.approx(100, rel=0.2)
    assert all(one.milliseconds >= 100 for one in wave.exchanges)
