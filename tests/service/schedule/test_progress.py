"""The progress of an explanation says early that it will be late, and how long a pass takes."""

import pytest

from service.bundle import folder
from service.runtime.graphs import PATH_GRADIENT
from service.schedule.progress import Progress, weights_of
from support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


def progress(clock, work, seconds, **weights):
    return Progress(weights, work, clock.now + seconds, clock)


def test_it_is_hopeless_once_the_pace_is_known_to_be_too_slow(clock):
    found = progress(clock, 100.0, 10.0)
    clock.sleep(1.0)
    found.ran(folder.PREDICT, 2)
    assert not found.hopeless  # a slow start may be followed by anything
    clock.sleep(0.6)
    assert found.hopeless  # but not for long
    quick = progress(clock, 100.0, 10.0)
    clock.sleep(1.2)
    quick.ran(folder.PREDICT, 10)
    assert quick.hopeless


def test_a_slow_first_piece_is_no_pace(clock):
    found = progress(clock, 100.0, 10.0)
    clock.sleep(3.0)
    found.ran(folder.PREDICT, 2)
    assert found.pace == 1.5
    clock.sleep(0.5)
    found.ran(folder.PREDICT, 10)
    assert found.pace == pytest.approx(0.05)
    assert not found.hopeless


def test_it_is_hopeless_without_time_for_a_cheaper_answer_at_the_pace_that_is_seen(clock):
    fits, short = (Progress({}, 100.0, clock.now + 11.0, clock, kept=kept) for kept in (9.0, 11.0))
    clock.sleep(1.0)
    for each in (fits, short):
        each.ran(folder.PREDICT, 10)
    assert not fits.hopeless
    assert short.hopeless


def test_at_a_pace_that_fits_it_goes_on(clock):
    found = progress(clock, 100.0, 10.0)
    for _ in range(9):
        clock.sleep(1.0)
        found.ran(folder.PREDICT, 11)
        assert not found.hopeless


def test_a_row_of_gradients_counts_three_passes_of_its_own_weight(clock):
    found = Progress({folder.GRADIENT: 0.5}, 100.0, clock.now + 1, clock)
    found.ran(folder.GRADIENT, 2)
    found.ran(PATH_GRADIENT, 2)
    found.ran(folder.PREDICT, 1)
    assert found.done == 2 * 1.5 + 2 * 1.5 + 1


def test_more_steps_have_time_if_they_and_the_map_beside_end_in_time(clock):
    found = progress(clock, 10.0, 10.0)
    clock.sleep(2.0)
    found.ran(folder.PREDICT, 10)
    assert found.has_time_for(folder.PREDICT, 32)
    assert not found.has_time_for(folder.PREDICT, 33)


def test_seconds_in_other_explanations_are_not_its_own(clock):
    found = Progress({}, 10.0, clock.now + 10, clock, lambda: 3.0)
    clock.sleep(5.0)
    assert found.seconds == pytest.approx(2.0)


def test_every_graph_of_a_bundle_has_a_weight(engine):
    weights = weights_of(engine)
    assert weights[folder.PREDICT] == 1.0
    assert set(weights) == {folder.PREDICT, folder.GRADIENT, folder.CAM}
    assert min(weights.values()) > 0
