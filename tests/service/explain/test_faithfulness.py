"""A map beats its opponents where it shows what the network looks at, and nowhere else."""

import numpy as np
import pytest

from service.explain import Target, ask, explain
from service.explain.faithfulness import (
    BLOCKS,
    FAITHFULNESS_PASSES,
    LEVELS,
    RANDOM_ORDERS,
    Trial,
    measures,
    unbeaten,
    unit_of,
)
from service.explain.maps.segments import grid
from service.explain.opponents import blob
from service.runtime.engine import Engine
from support import toys

CENTRE = np.s_[6:10, 6:10]
WHITE = np.full((toys.SIZE, toys.SIZE, 3), 255, np.uint8)


class Counted(Engine):
    """An engine that counts the rows of its predictions."""

    def __init__(self, engine):
        self.__dict__ |= engine.__dict__
        self.rows = 0

    def predict(self, batch):
        self.rows += len(batch)
        return super().predict(batch)


def looking_at(place, folder):
    """A linear network whose first class is the brightness of one place, and the second nothing."""
    weights = np.zeros((2, 3, toys.SIZE, toys.SIZE), np.float32)
    weights[0][:, place[0], place[1]] = 0.05
    return toys.linear(folder, weights.reshape(2, -1))


@pytest.fixture(scope="module")
def central(tmp_path_factory):
    return looking_at(CENTRE, tmp_path_factory.mktemp("central"))


@pytest.fixture(scope="module")
def aside(tmp_path_factory):
    return looking_at(toys.PATCH, tmp_path_factory.mktemp("aside"))


def judged(engine, values, seed=0):
    trial = Trial(engine, WHITE, Target(0), "probability")
    return measures(trial.areas(values), trial.opponents(seed))


def noise(seed):
    return np.random.default_rng(seed).normal(size=(toys.SIZE, toys.SIZE)).astype(np.float32)


def patch(place):
    values = np.zeros((toys.SIZE, toys.SIZE), np.float32)
    values[place] = 1
    return values


def test_of_a_linear_network_the_areas_are_sums_of_its_terms(central):
    x, mean = (
        central.normalise(np.asarray(pixels)[None])[0]
        for pixels in (WHITE, Trial(central, WHITE, Target(0), "logit")._background)
    )
    weights = np.zeros((3, toys.SIZE, toys.SIZE))
    weights[:, *CENTRE] = 0.05
    cut, values = grid(toys.SIZE, BLOCKS), noise(1)
    terms, base = (
        np.bincount(cut.ravel(), (weights * each).sum(0).ravel()) for each in (x - mean, mean)
    )
    order = np.argsort(-np.bincount(cut.ravel(), values.ravel()), kind="stable")
    gone = [terms[order[: round(share)]].sum() for share in np.linspace(0, 64, LEVELS)]
    found = Trial(central, WHITE, Target(0), "logit").areas(values)
    whole = base.sum() + terms.sum()
    assert found.deletion == pytest.approx(whole - np.mean(gone), rel=1e-5)
    assert found.insertion == pytest.approx(base.sum() + np.mean(gone), rel=1e-5)


def test_of_a_network_that_looks_at_the_middle_the_blob_wins_and_is_named(central):
    found = judged(central, patch(toys.PATCH))
    assert unbeaten(found, "deletion")[0] == unbeaten(found, "insertion")[0] == "blob"


def test_a_map_of_what_the_network_looks_at_beats_every_opponent(aside):
    found = judged(aside, patch(toys.PATCH))
    assert unbeaten(found, "deletion") == unbeaten(found, "insertion") == ()


def test_the_blob_itself_does_not_beat_the_blob(central):
    found = judged(central, blob(WHITE))
    for side in ("deletion", "insertion"):
        assert "blob" in unbeaten(found, side)


def test_a_random_map_hardly_ever_beats_random_orders(aside):
    found = [judged(aside, noise(seed), seed=100 + seed) for seed in range(60)]
    for side in ("deletion", "insertion"):
        won = np.mean(["random" not in unbeaten(each, side) for each in found])
        assert won <= 0.15, "2 standard deviations of 8 orders: one in twenty, by Student's t"


def test_where_nothing_changes_no_map_wins(tmp_path):
    blind = toys.linear(tmp_path, np.zeros((2, 3 * toys.SIZE**2), np.float32))
    found = judged(blind, noise(0))
    for side in ("deletion", "insertion"):
        assert set(unbeaten(found, side)) == {"random", "blob", "edges"}


def test_only_the_predicted_class_is_judged_by_its_probability():
    ranked = np.array([0.1, 2.0, 1.0])
    assert unit_of(Target(1), ranked) == "probability"
    assert unit_of(Target(0), ranked) == "logit"
    assert unit_of(Target(1, 0), ranked) == "difference of logits"


@pytest.mark.parametrize(
    ("target", "unit"),
    # The map of b is nothing, and has no areas.
    [(None, "probability"), ("b", None), ("a,b", "difference of logits"), ("a", "probability")],
)
def test_an_answer_says_the_unit_of_its_areas(target, unit, central):
    question = ask(central.manifest, "saliency", target, {}, "full")
    found = explain(central, WHITE, question, central.predict(WHITE[None]).logits[0])
    assert found.areas_unit == unit


def test_a_contrast_is_judged_as_a_contrast(aside):
    trials = [
        Trial(aside, WHITE, target, unit).areas(noise(2))
        for target, unit in (
            (Target(0, 1), "difference of logits"),
            (Target(0), "logit"),
            (Target(1), "logit"),
        )
    ]
    for side in (0, 1):
        assert trials[0][side] == pytest.approx(trials[1][side] - trials[2][side], abs=1e-5)


def test_opponents_depend_on_no_map_and_their_passes_are_counted(central):
    engine = Counted(central)
    trial = Trial(engine, WHITE, Target(0), "probability")
    first, second = (measures(trial.areas(noise(seed)), trial.opponents()) for seed in (0, 1))
    assert engine.rows == 2 * FAITHFULNESS_PASSES - 2, "the ends are shared"
    same = {name for name in first if "_" in name}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert len(same) == 8
    assert first["deletion_random_sd"] > 0
    assert RANDOM_ORDERS >= 8
