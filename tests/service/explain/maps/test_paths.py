"""Paths end early within their tolerance, run each point once, and stop in time."""

import numpy as np
import pytest

from service.bundle import folder
from service.explain import ask, explain
from service.explain.maps import quadrature
from service.explain.maps.baselines import BASELINES, baseline_pixels
from service.explain.maps.gradients import integrated_gradients
from service.explain.maps.paths import integrate, paths_to
from service.explain.maps.sampling import cosine
from service.explain.maps.target import Target
from service.runtime.engine import Budget, Piece
from support import toys
from support.images import draw

PIXELS = draw("blue")
ONE = (Target(3),)


class Counted(Budget):
    """Counts rows of gradients; grants `rounds` of them."""

    def __init__(self, rounds=100):
        self.rows, self.asked, self._rounds = 0, [], rounds

    def has_time_for(self, graph, rows):
        assert graph == folder.GRADIENT
        self.asked.append(rows)
        self._rounds -= 1
        return self._rounds >= 0

    def ran(self, graph, rows):
        self.rows += rows if graph == folder.GRADIENT else 0


def watched(engine, budget):
    return engine.paced(
        lambda remaining: Piece(min(remaining, engine.most_rows), all_cores=True), budget
    )


def found(engine, targets=ONE, tolerance=0.05, steps=128, baseline="mean"):
    batch = np.repeat(PIXELS[None], len(targets), 0)
    begun = paths_to(engine, batch, targets, baseline, steps)
    return integrate(engine, begun, tolerance, steps)


def gap(path):
    return abs(float(path.map.sum(dtype=float)) - path.difference) / abs(path.difference)


def test_the_rows_that_run_are_the_points_of_the_path(engine):
    counted = Counted()
    (path,) = found(watched(engine, counted), tolerance=0.001)
    assert counted.rows == len(path.cells) > quadrature.FIRST
    assert sum(counted.asked) == counted.rows


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_gap_is_within_the_tolerance_and_the_map_is_that_of_many_points(baseline, engine):
    (path,) = found(engine, baseline=baseline)
    many = integrated_gradients(engine, PIXELS[None], np.array([3]), 48, baseline)
    assert gap(path) <= 0.05
    assert cosine(path.map, many.attribution[0].sum(0)) > 0.98
    assert path.difference == pytest.approx(float(many.difference[0]), abs=1e-4)
    assert len(path.cells) < 64


def test_the_steps_are_a_limit(engine):
    assert [len(found(engine, tolerance=1e-6, steps=n)[0].cells) for n in (1, 3, 9)] == [1, 3, 8]


def test_without_time_for_a_round_the_gap_is_that_of_the_points_that_ran(engine):
    (path,) = found(watched(engine, Counted(rounds=2)), tolerance=1e-6)
    (first,) = found(watched(engine, Counted(rounds=1)), tolerance=1e-6)
    assert len(first.cells) == quadrature.FIRST < len(path.cells)
    assert gap(path) > 1e-6


def test_paths_together_are_those_alone(engine):
    targets = [Target(3), Target(3, 5)]
    for path, target in zip(found(engine, targets), targets, strict=True):
        (alone,) = found(engine, [target])
        assert len(path.cells) == len(alone.cells)
        assert np.abs(path.map - alone.map).max() < 1e-3 * np.abs(alone.map).max()


def test_a_contrast_is_done_when_the_difference_of_the_scores_is_met(engine):
    counted = Counted()
    (path,) = found(watched(engine, counted), [Target(3, 5)])
    assert gap(path) <= 0.05
    assert counted.rows == 2 * len(path.cells)


def test_an_image_that_is_its_baseline_takes_the_first_points_alone(engine):
    pixels = baseline_pixels(engine, PIXELS, "black")
    question = ask(engine.manifest, "integrated_gradients", "3", {"baseline": "black"})
    answer = explain(engine, pixels, question, engine.predict(pixels[None]).logits[0])
    assert answer.nothing
    assert answer.quality["steps"] == quadrature.FIRST


def test_of_a_product_the_first_points_are_exact(tmp_path):
    engine, pixels = toys.product(tmp_path), toys.image()
    (path,) = integrate(engine, paths_to(engine, pixels[None], [Target(0)], "mean", 128), 1e-4, 128)
    assert len(path.cells) == quadrature.FIRST
