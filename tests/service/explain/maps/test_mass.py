"""The mass of a map is what it says of maps that can be reckoned by hand."""

import numpy as np
import pytest

from service.explain.maps.mass import Mass, mass_of


def cells(*places, shape=(4, 4), against=()):
    values = np.zeros(shape, np.float32)
    for place in places:
        values[place] = 2
    for place in against:
        values[place] = -5
    return values


@pytest.mark.parametrize(
    ("values", "mass"),
    [
        (np.ones((4, 4), np.float32), (1, 12 / 16, 0, 0, 8)),
        (cells((0, 3)), (1 / 16, 1, 0.75, -0.75, 1)),
        (cells((1, 1), (1, 2), (2, 1), (2, 2)), (4 / 16, 0, 0, 0, 4)),
        (cells((3, 0), (3, 1), shape=(4, 2)), (2 / 8, 1, 0, 0.75, 2)),
        (cells((0, 3), against=[(3, 0)]), (1 / 16, 1, 0.75, -0.75, 1)),
        (1e-30 * cells((0, 3)), (1 / 16, 1, 0.75, -0.75, 1e-30)),
        (cells(against=[(0, 0)]), (0, 0, 0, 0, 0)),
    ],
    ids=["even", "a corner", "the middle", "two cells of eight", "signs", "faint", "against alone"],
)
def test_the_mass_of_simple_maps(values, mass):
    assert mass_of(values, 2.0) == pytest.approx(Mass(*mass))


def test_a_map_of_equal_logits_has_no_mass_to_compare():
    assert set(mass_of(np.ones((4, 4), np.float32), 0.0)) == {0.0}
