"""Explanations yield to predictions, and stop when nobody waits for them."""

import time

import pytest

from service.errors import DeadlineExceeded, Unavailable
from service.runtime.engine import CPU_ROWS
from service.schedule.pacing import PIECE_SECONDS, REST, Turns
from service.workers.shared_state import SharedState


@pytest.fixture
def device(engine):
    """An engine whose `wide` is nobody else's."""
    return engine.paced(lambda _engine, left: left)


def turns(*, deadline=60.0, abandoned=False, quiet=True):
    shared_state = SharedState()
    if not quiet:
        shared_state.predict()
    return Turns(time.perf_counter() + deadline, lambda: abandoned, shared_state)


def test_when_nobody_predicts_a_piece_has_all_cores_and_all_rows(device):
    turn = turns()
    assert [turn(device, 40), turn(device, 24), turn(device, 8)] == [CPU_ROWS, CPU_ROWS, 8]
    assert device.wide


def test_beside_predictions_a_piece_is_short_and_a_rest_follows(device):
    turn = turns(quiet=False)
    assert turn(device, 100) == 1
    assert not device.wide
    piece = time.perf_counter()
    time.sleep(PIECE_SECONDS / 4)
    rest = time.perf_counter()
    rows = turn(device, 100)
    assert time.perf_counter() - rest >= REST * PIECE_SECONDS / 4
    assert abs(rows - PIECE_SECONDS / (rest - piece)) <= 1


def test_a_piece_that_took_too_long_is_followed_by_a_smaller_one(device):
    turn = turns(quiet=False)
    turn(device, 100)
    time.sleep(PIECE_SECONDS / 8)
    first = turn(device, 100)
    time.sleep(2 * PIECE_SECONDS)
    turn._shared_state.predict()
    assert turn(device, 100) < first


def test_an_explanation_that_nobody_waits_for_stops(device):
    with pytest.raises(Unavailable, match="went away"):
        turns(abandoned=True)(device, 1)


def test_an_explanation_stops_at_its_deadline(device):
    with pytest.raises(DeadlineExceeded, match="give more time"):
        turns(deadline=-1.0)(device, 1)


def test_an_engine_asks_before_every_piece(engine):
    import numpy as np

    asked = []

    def turn(_engine, left):
        asked.append(left)
        return min(left, 3)

    size = engine.manifest.input.size
    batch = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    found = engine.paced(turn).predict(batch).logits
    assert asked == [8, 5, 2]
    assert np.abs(found - engine.predict(batch).logits).max() < 1e-4


def test_one_thread_and_all_threads_answer_alike(engine):
    import numpy as np

    size = engine.manifest.input.size
    batch = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    answers = []
    for engine.wide in (False, True):
        answers.append(engine.predict(batch).logits)
    assert np.abs(answers[0] - answers[1]).max() < 1e-4
