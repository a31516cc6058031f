"""APGD finds the best image within a radius of a network whose best one is known."""

import numpy as np
import pytest

from service.runtime.engine import Engine
from training.audit.measures.apgd import (
    MOMENTUM,
    Run,
    Slope,
    Start,
    ascend,
    checkpoints,
    rounded,
)


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu", 1)


def seen(margin, slope=0.0, *, broken=False):
    return Slope(
        np.array([margin], np.float32),
        np.full((1, 3, 1, 1), slope, np.float32),
        np.array([broken]),
    )


def at(value):
    return np.full((1, 3, 1, 1), value, np.float32)


ROW = np.array([0])


def test_checks_are_those_of_the_paper():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_network_sees_the_nearest_image():
    assert rounded(at(1.6)).tolist() == [[[[2, 2, 2]]]]


def test_the_image_that_breaks_is_kept_though_its_rival_fell():
    run = Run(at(10), seen(-1.0), 4)
    run.x[:] = 13
    run.see(ROW, seen(-5.0, broken=True))
    assert run.broken.all()
    assert (run.best == 13).all(), "another class than the rival broke it"


def test_a_step_that_hardly_raises_the_margin_is_halved_from_the_best_image():
    run = Run(at(10), seen(-1.0), 4)
    for place, margin in ((11, 0.5), (12, -3.0), (13, -4.0)):
        run.x[:] = place
        run.see(ROW, seen(margin, slope=place))
    run.check()
    assert (run.step_size == 4).all(), "half of two radii"
    assert (run.x == 11).all()
    assert (run.slope == 11).all()


def test_a_step_that_always_raises_the_margin_is_kept():
    run = Run(at(10), seen(-1.0), 4)
    for place, margin in ((11, -0.5), (12, -0.4), (13, -0.3)):
        run.x[:] = place
        run.see(ROW, seen(margin))
    run.check()
    assert (run.step_size == 8).all()
    assert (run.x == 13).all()


def test_a_step_goes_up_the_slope_and_on_as_before_within_the_radius():
    run = Run(at(100), seen(-1.0, slope=-2.0), 1)
    low, high = at(96), at(104)
    run.move(ROW, low, high, 1.0)
    assert (run.x == 98).all(), "two radii down"
    run.slope[:] = 0
    run.move(ROW, low, high, MOMENTUM)
    assert (run.x == 97.5).all(), "a quarter of the step before"
    run.slope[:] = -1
    run.move(ROW, low, high, 1.0)
    assert (run.x == 96).all()


def test_each_image_has_its_own_rival(engine, dataset):
    pixels, truth = dataset.test.pixels[:6], dataset.test.labels[:6]
    before = engine.predict(pixels).logits
    for rival in (0, 1):
        ranked = np.argsort(-np.where(np.eye(before.shape[1], dtype=bool)[truth], np.inf, before))
        classes = ranked[:, 1 + rival]
        found = ascend(
            engine, pixels, truth, 1, Start(rival, random=False), np.random.default_rng(0)
        )
        after = engine.predict(found).logits
        rows = np.arange(6)
        rise = (after - before)[rows, classes] - (after - before)[rows, truth]
        assert (rise > 0).all(), rise
