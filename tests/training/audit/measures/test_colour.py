"""Recoloured images keep their brightness, and chance is not called a decision."""

import numpy as np

from service.runtime.engine import Engine
from support import images
from training.audit import findings
from training.audit.measures import colour
from training.data import planted


def test_recoloured_images_have_the_colours_of_their_givers_and_their_own_brightness():
    rng = np.random.default_rng(0)
    grey = rng.integers(90, 166, (6, 16, 16, 1), np.uint8).repeat(3, axis=-1)
    giver = planted.tinted(rng.integers(100, 156, (6, 16, 16, 3), np.uint8), planted.colours(6))
    for own in (grey, giver[::-1]):
        after = colour.recoloured(own, giver)
        given, result, before = (
            (pixels @ colour.TO_YCC.T).mean((1, 2)) for pixels in (giver, after, own)
        )
        assert np.abs(result[:, 0] - before[:, 0]).max() < 1
        assert np.abs(result[:, 1:] - given[:, 1:]).max() < 2
    assert np.abs(colour.recoloured(giver, giver).astype(int) - giver).max() <= 1


def test_a_blue_thing_on_grey_becomes_a_red_thing_on_grey():
    after = colour.recoloured(images.draw("blue")[None], images.draw("red", seed=1)[None])[0]
    blue = images.draw("blue").astype(int)
    disc = np.ptp(blue, axis=-1) > 60
    assert (after[disc][:, 0] > after[disc][:, 2]).mean() > 0.95
    assert np.ptp(after[~disc].astype(int), axis=-1).mean() < 20


def test_colours_win_the_conflicts_of_a_network_that_knows_only_colours(bundle, dataset):
    figures = colour.conflicts(Engine(bundle, "cpu"), dataset.test.pixels, seed=0)
    assert figures["colour"] > 0.8, "these discs differ by their colour alone"
    assert figures["p_value"] < findings.P_VALUE


def test_chance_is_not_called_a_decision():
    rng = np.random.default_rng(0)
    decisions = 0
    for _ in range(200):
        wins = rng.uniform(size=60) < 0.5
        names = rng.choice([*"abcdef"], 60).tolist()
        figures = colour.conflict_figures(wins, ~wins, names)
        decisions += (
            min(entry["p_value"] for entry in (figures, *figures["by_answer"].values()))
            < findings.P_VALUE
        )
    assert decisions / 200 <= findings.P_VALUE + 0.03


def test_one_answer_that_colour_decides_is_named_alone():
    rng = np.random.default_rng(0)
    names = np.array(["ship", "cat", "dog"]).repeat(40)
    wins = np.where(names == "ship", rng.uniform(size=120) < 0.9, rng.uniform(size=120) < 0.1)
    sentences = list(findings._colour(colour.conflict_figures(wins, ~wins, names.tolist())))
    assert len(sentences) == 1
    assert sentences[0].startswith("colour decides for ship: of 40 images")
