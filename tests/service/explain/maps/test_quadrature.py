"""Cells keep their points when they split, know their gaps, and split where the score moves."""

import numpy as np
import pytest

from service.explain.maps import quadrature


def gaps_of(cells, score, slope):
    points = cells.middles
    return cells.gaps(score(points), slope(points), float(score(0.0)), float(score(1.0)))


def until_within(score, slope, allowed):
    """The cells once their gaps are within, and how many rounds that took."""
    cells = quadrature.equal(quadrature.FIRST)
    for rounds in range(1, 40):
        gaps = gaps_of(cells, score, slope)
        if quadrature.within(gaps, allowed):
            return cells, rounds
        cells, _ = cells.split(quadrature.worst(gaps, 100))
    pytest.fail("the gaps never come within")


def test_every_point_is_used_again_and_the_cells_still_fill_the_path():
    cells = quadrature.equal(4)
    finer, old = cells.split(np.array([0, 2]))
    assert len(finer) == 8
    assert old.tolist() == [-1, 0, -1, 1, -1, 2, -1, 3]
    kept = old >= 0
    assert finer.middles[kept] == pytest.approx(cells.middles[old[kept]])
    assert finer.widths.sum() == pytest.approx(1)
    assert finer.lows == pytest.approx(np.concatenate([[0], np.cumsum(finer.widths)[:-1]]))


@pytest.mark.parametrize("degree", [0, 1])
def test_slopes_that_are_lines_have_no_gap_in_cells_of_any_width(degree):
    finer, _ = quadrature.equal(4).split(np.array([1]))
    finer, _ = finer.split(np.array([0, 5]))
    gaps = gaps_of(
        finer,
        lambda t: 3 * np.power(t, degree + 1),
        lambda t: 3 * (degree + 1) * np.power(t, degree),
    )
    assert np.abs(gaps[1:-1]).max() < 1e-12
    assert abs(gaps.sum()) < 1e-12


def test_the_gaps_of_the_cells_sum_to_the_gap_of_the_path():
    cells, _ = quadrature.equal(4).split(np.array([3]))
    gaps = gaps_of(cells, np.exp, np.exp)
    assert gaps.sum() == pytest.approx(cells.widths @ np.exp(cells.middles) - (np.e - 1))


def test_the_gap_of_a_cell_is_known_without_another_point():
    cells = quadrature.equal(8)
    gaps = gaps_of(cells, np.exp, np.exp)
    true = cells.widths * np.exp(cells.middles) - np.diff(np.exp([*cells.lows, 1.0]))
    assert gaps == pytest.approx(true, rel=0.2)


def test_a_kink_is_refined_where_it_moves():
    place, sharp = 0.07, 200.0

    def score(t):
        return 1 / (1 + np.exp(-sharp * (np.asarray(t) - place)))

    cells, _ = until_within(score, lambda t: sharp * score(t) * (1 - score(t)), 0.05)
    near = np.abs(cells.middles - place) < 0.1
    assert near.sum() > 0.6 * len(cells)
    assert cells.widths[near].min() <= cells.widths.max() / 9
    assert len(cells) < 1 / cells.widths.min() / 2, "equal cells would be as few"


def test_a_smooth_path_is_done_after_four_points_and_one_round():
    cells, rounds = until_within(lambda t: np.sin(np.asarray(t)), np.cos, 0.05)
    assert (len(cells), rounds) == (4, 1)


def test_gaps_that_only_cancel_are_not_within():
    gaps = np.array([1.0, -1.0, 0.5, -0.5])
    assert not quadrature.within(gaps, 0.1)
    assert quadrature.within(gaps, 1.0)


def test_the_worst_cells_hold_most_of_the_gaps_and_are_no_more_than_allowed():
    gaps = np.array([0.1, -5.0, 0.1, 4.0, 0.0])
    assert quadrature.worst(gaps, 10).tolist() == [1, 3]
    assert quadrature.worst(gaps, 1).tolist() == [1]
    assert quadrature.worst(np.zeros(3), 10).tolist() == [0]
