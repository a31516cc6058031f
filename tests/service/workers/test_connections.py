"""A worker has a bounded number of connections, and each a bounded age."""

import logging
import resource
from collections import Counter

import pytest

from service.workers import connections
from service.workers.connections import Connections
from service.workers.host import raise_file_limit


class Line:
    """A connection that notes what is done to it."""

    def __init__(self, address="10.0.0.1", *, quiet=True, unread=0):
        self.client, self.quiet, self.unread_bytes = (address, 1), quiet, unread
        self.checked, self.retired, self.ended = [], False, False

    def check(self, now):
        self.checked.append(now)

    def retire(self):
        self.retired = True

    def end(self):
        self.ended = True

    abort = end


class Notes:
    """A report that keeps what it gets."""

    def __init__(self):
        self.open, self.reasons, self.bad = 0, Counter(), 0

    def opened(self, count):
        self.open = count

    def closed(self, reason):
        self.reasons[reason] += 1

    def bad_request(self):
        self.bad += 1


def added(many, *lines, now=0.0):
    for line in lines:
        many.add(line, now)
    return lines


def test_for_one_more_than_the_limit_the_oldest_idle_one_ends():
    notes = Notes()
    many = Connections(most=3, report=notes)
    busy, rested, idle = added(many, Line(), Line(), Line())
    many.busy(busy)
    many.busy(rested)
    many.rest(rested, 1.0)
    added(many, Line())
    assert [line.ended for line in (busy, rested, idle)] == [False, False, True]
    added(many, Line())
    assert [line.ended for line in (busy, rested)] == [False, True]
    assert (len(many), notes.open, notes.reasons) == (3, 3, {"limit": 2})


def test_where_all_are_busy_the_new_one_ends():
    many = Connections(most=1)
    (busy,) = added(many, Line())
    many.busy(busy)
    (new,) = added(many, Line())
    assert (busy.ended, new.ended) == (False, True)


def test_one_address_has_at_most_so_many_and_costs_no_other_its_own():
    notes = Notes()
    many = Connections(most=10, per_address=2, report=notes)
    (other,) = added(many, Line("10.0.0.2"))
    lines = added(many, *(Line() for _ in range(5)))
    assert [line.ended for line in lines] == [True, True, True, False, False]
    assert not other.ended
    assert notes.reasons == {"address": 3}


def test_callers_with_the_most_unread_bytes_end_when_all_have_too_many():
    notes = Notes()
    many = Connections(most_unread_bytes=100, report=notes)
    lines = added(many, *(Line(unread=size) for size in (0, 40, 70, 30, 90)))
    many.sweep(1.0)
    assert [line.ended for line in lines] == [False, False, True, False, True]
    assert notes.reasons == {"unread": 2}
    many.sweep(2.0)
    assert notes.reasons == {"unread": 2}
    unlimited = Connections(report=notes)
    added(unlimited, Line(unread=10**9))
    unlimited.sweep(1.0)
    assert notes.reasons == {"unread": 2}


def test_what_has_ended_is_forgotten():
    many = Connections(most=2, per_address=2)
    for _ in range(20):
        (line,) = added(many, Line())
        many.busy(line)
        many.remove(line)
        many.remove(line)
        many.rest(line, 1.0)
        assert not line.ended
    assert len(many) == 0
    assert not many._of_address
    assert not many._idle


def test_the_age_of_connections_is_spread_over_a_fifth():
    many = Connections(seconds=100)
    lines = added(many, *(Line() for _ in range(200)))
    many.sweep(89.9)
    assert not any(line.retired for line in lines)
    many.sweep(100.0)
    assert 50 < sum(line.retired for line in lines) < 150
    many.sweep(110.1)
    assert all(line.retired for line in lines)
    assert lines[0].checked == [89.9, 100.0, 110.1]


def test_without_an_age_none_retires():
    many = Connections()
    (line,) = added(many, Line())
    many.sweep(1e9)
    assert not line.retired


def test_at_the_end_all_retire_and_the_quiet_ones_end():
    many = Connections()
    quiet, late, speaking, busy = added(many, Line(), Line(), Line(quiet=False), Line())
    many.busy(busy)
    many.rest(late, 2.0)
    many.retire()
    (new,) = added(many, Line(), now=3.0)
    assert all(line.retired for line in (quiet, late, speaking, busy, new))
    many.end_quiet(before=1.0)
    assert [line.ended for line in (quiet, late, speaking, busy, new)] == [True, *[False] * 4]


@pytest.mark.parametrize("seconds", [59.0, 61.0])
def test_bad_requests_have_a_line_a_minute(seconds, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("candor"), "propagate", True)
    clock, notes = [1_000.0], Notes()
    monkeypatch.setattr(connections.time, "monotonic", lambda: clock[0])
    many = Connections(report=notes)
    for _ in range(5):
        many.bad_request()
    clock[0] += seconds
    many.bad_request()
    assert notes.bad == 6
    numbers = [message.split()[0] for message in caplog.messages]
    assert numbers == (["1"] if seconds < 60 else ["1", "5"])


def test_the_limit_of_open_files_is_raised_to_the_hard_one():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
