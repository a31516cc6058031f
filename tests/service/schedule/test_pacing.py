"""Explanations yield to predictions, and stop when their answer is of no use."""

import math
import time

import pytest

from service.errors import DeadlineExceeded, Unavailable
from service.runtime.engine import Piece
from service.schedule.pacing import EXPECTING_SECONDS, PIECE_SECONDS, REST, GaveWay, Pacer
from service.workers.shared_state import PREDICTING, QUIET_SECONDS, SharedState
from support.clock import Clock

MOST_ROWS = 16


class Room:
    """A pacer on a clock of its own, which its rests move on."""

    def __init__(
        self, *, seconds=60.0, cancelled=False, predicting=False, shared_state=None, now=None
    ):
        shared_state = shared_state or SharedState()
        if predicting:
            shared_state.predict()
            now = shared_state.last_prediction
        self.clock = Clock(now or time.perf_counter())  # the clock of the shared state
        self.brief, self.interjected = [], -math.inf  # seconds of brief ones that wait
        self.pacer = Pacer(
            MOST_ROWS,
            self.clock.now + seconds,
            lambda: cancelled,
            shared_state,
            clock=self.clock,
            rest=self.rest,
            interjected_at=lambda: self.interjected,
        )

    def rest(self, seconds):
        """Runs a brief explanation if one waits, and lets `seconds` pass."""
        took = self.brief.pop() if self.brief else 0.0
        self.clock.sleep(max(seconds, took))
        if took:
            self.interjected = self.clock.now
        return took


def test_without_predictions_a_piece_has_all_cores_and_all_rows():
    pacer = Room().pacer
    pieces = [pacer(40), pacer(24), pacer(8)]
    assert pieces == [Piece(MOST_ROWS, True), Piece(MOST_ROWS, True), Piece(8, True)]


def test_beside_another_worker_that_computes_a_piece_has_one_core(tmp_path):
    ours, theirs = (SharedState(tmp_path / "shared", own) for own in (0, 1))
    with theirs.computing(PREDICTING):
        room = Room(shared_state=ours)
        assert room.pacer(40) == Piece(MOST_ROWS, False)


def test_beside_predictions_a_piece_is_short_and_a_rest_follows():
    room = Room(predicting=True)
    assert room.pacer(100) == Piece(1, False)
    room.clock.sleep(PIECE_SECONDS / 4)
    before = room.clock.now
    assert room.pacer(100) == Piece(4, False)
    assert room.clock.now - before == pytest.approx(REST * PIECE_SECONDS / 4)


def test_a_piece_that_took_too_long_is_followed_by_a_smaller_one():
    room = Room(predicting=True)
    room.pacer(100)
    room.clock.sleep(PIECE_SECONDS / 8)
    assert room.pacer(100).rows == 8
    room.pacer._shared_state.predict()
    room.clock.sleep(2 * PIECE_SECONDS)
    assert room.pacer(100).rows == 4


def test_a_long_piece_of_a_quiet_moment_is_followed_by_a_bounded_rest():
    room = Room(now=time.perf_counter() - 3.0)
    assert room.pacer(100).rows == MOST_ROWS
    room.clock.sleep(3.0)
    room.pacer._shared_state.predict()
    before = room.clock.now
    assert room.pacer(100) == Piece(1, False)
    assert room.clock.now - before == pytest.approx(REST * REST * PIECE_SECONDS)


def test_a_moment_without_predictions_ends_the_short_pieces():
    room = Room(predicting=True)
    assert room.pacer(100).rows == 1
    room.clock.sleep(2 * QUIET_SECONDS)
    assert room.pacer(100) == Piece(MOST_ROWS, True)


def test_after_a_brief_explanation_pieces_are_short_and_rests_follow_for_others():
    room = Room()
    room.pacer(100)
    room.clock.sleep(PIECE_SECONDS)
    room.brief = [0.003]
    assert room.pacer(100).rows == MOST_ROWS
    assert room.pacer.interjected_seconds == 0.003
    room.clock.sleep(2 * PIECE_SECONDS)
    before = room.clock.now
    assert room.pacer(100) == Piece(MOST_ROWS // 2, False)
    assert room.clock.now - before == pytest.approx(REST * 2 * PIECE_SECONDS)


def test_a_caller_of_brief_ones_with_pauses_is_expected_and_costs_no_rest():
    room = Room()
    room.pacer(100)
    room.interjected = room.clock.now - EXPECTING_SECONDS / 2
    room.clock.sleep(2 * PIECE_SECONDS)
    before = room.clock.now
    assert room.pacer(100) == Piece(MOST_ROWS // 2, True)
    assert room.clock.now == before
    room.clock.sleep(EXPECTING_SECONDS)
    assert room.pacer(100) == Piece(MOST_ROWS, True)


def test_an_explanation_whose_caller_has_left_stops():
    with pytest.raises(Unavailable, match="the caller has left"):
        Room(cancelled=True).pacer(1)


def test_an_explanation_gives_way_when_it_is_pressed():
    room, waiting = Room(), []
    room.pacer._pressed = lambda: bool(waiting)
    assert room.pacer(1).rows == 1
    waiting.append("another caller")
    with pytest.raises(GaveWay):
        room.pacer(1)


def test_an_explanation_stops_at_its_deadline():
    room = Room(seconds=1.0)
    room.clock.sleep(1.0)
    assert room.pacer(1).rows == 1
    room.clock.sleep(0.001)
    with pytest.raises(DeadlineExceeded, match="give more time"):
        room.pacer(1)
