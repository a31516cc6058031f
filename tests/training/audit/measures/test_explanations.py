"""Borders are relative to their area; a map's areas stand beside its opponents', with intervals."""

import numpy as np
import pytest

from service.bundle.folder import load
from service.explain.faithfulness import OPPONENTS
from service.runtime.engine import Engine
from support import toys
from training.audit.measures.explanations import border_share, explanations


def test_a_map_that_is_spread_evenly_has_a_border_share_of_one():
    assert border_share(np.ones((32, 32), np.float32)) == pytest.approx(1.0)
    inside = np.zeros((32, 32), np.float32)
    inside[16, 16] = 1
    assert border_share(inside) == 0.0


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    bundle = load(toys.many_classes(tmp_path_factory.mktemp("many"), "abc"))
    pixels = np.stack([toys.image(seed) for seed in range(4)])
    return explanations(bundle, Engine(bundle, "cpu", 1), pixels, 2, seed=0)


def test_each_area_has_an_interval_that_holds_it(section):
    for figures in section["methods"].values():
        for side in ("deletion", "insertion"):
            for name in ("", "_random", "_random_sd", "_blob", "_edges"):
                low, high = figures[f"{side}{name}_interval"]
                assert low <= figures[f"{side}{name}"] <= high


def test_opponents_are_the_same_for_all_methods(section):
    first, *others = section["methods"].values()
    for name in ("deletion_random", "insertion_random_sd", "deletion_blob", "insertion_edges"):
        assert all(figures[name] == first[name] for figures in others)


def test_the_share_of_images_on_which_a_map_is_better_is_given_for_each_opponent(section):
    for figures in section["methods"].values():
        for side in ("deletion", "insertion"):
            assert all(0 <= figures[f"{side}_better_than_{name}"] <= 1 for name in OPPONENTS)
            assert figures[f"{side}_beyond_spread"] <= figures[f"{side}_better_than_random"]
