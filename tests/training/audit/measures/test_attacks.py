"""Attacks stay within their radius, and succeed as often as Captum's."""

import warnings

import numpy as np
import pytest
import torch
from captum.robust import PGD

from service.runtime.engine import Engine
from training.audit.measures import attacks
from training.audit.measures.apgd import Start


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu", 1)


def broken(engine, pixels, truth):
    return engine.predict(pixels).logits.argmax(1) != truth


def test_an_attacked_image_is_an_image_within_the_radius(engine, dataset):
    pixels, truth = dataset.test.pixels[:8], dataset.test.labels[:8]
    for radius in (1, 3):
        for attacked in (
            attacks.fgsm(engine, pixels, truth, radius),
            attacks.attacked_by(engine, pixels, truth, radius, 0),
        ):
            assert attacked.dtype == np.uint8
            assert np.abs(attacked.astype(int) - pixels).max() <= radius
            assert not np.array_equal(attacked, pixels)


def test_an_image_that_one_start_breaks_is_kept(engine, dataset):
    pixels, truth = dataset.test.pixels, dataset.test.labels
    strong, weak = Start(random=False), Start(rival=1)
    for radius in (24, 32):
        alone = attacks.attacked_by(engine, pixels, truth, radius, 0, [strong])
        both = attacks.attacked_by(engine, pixels, truth, radius, 0, [strong, weak])
        rows = broken(engine, alone, truth)
        assert rows.any()
        assert np.array_equal(both[rows], alone[rows])


def test_robustness_counts_images_that_outlast_every_attack(engine, dataset):
    pixels, truth = dataset.test.pixels[::2], dataset.test.labels[::2]
    starts = Start(random=False), Start()
    section = attacks.robustness(engine, pixels, truth, 0, (24, 12), starts)
    assert section["radius_levels"] == [12, 24]
    assert section == attacks.robustness(engine, pixels, truth, 0, (24, 12), starts), "one seed"
    previous = section["clean"]
    for radius in (12, 24):
        worst = section["accuracy"][attacks.WORST][str(radius)]
        assert worst <= min(previous, section["accuracy"]["fgsm"][str(radius)])
        low, high = section["interval"][attacks.WORST][str(radius)]
        assert low <= worst <= high
        attacked = attacks.attacked_by(engine, pixels, truth, radius, 0, starts)
        assert worst <= 1 - broken(engine, attacked, truth).mean()
        previous = worst
    assert section["accuracy"][attacks.WORST]["24"] < section["clean"]


def test_attacks_through_the_bundle_succeed_as_often_as_captums(engine, run, dataset):
    pixels, truth, levels = dataset.test.pixels, dataset.test.labels, 24
    ours = attacks.attacked_by(engine, pixels, truth, levels, 0, [Start()])
    radius = levels / 255
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (engine.manifest.input.mean, engine.manifest.input.std)
    )
    torch.manual_seed(0)
    pgd = PGD(
        lambda x: run.network((x - mean) / std),
        torch.nn.CrossEntropyLoss(reduction="none"),
        lower_bound=0.0,
        upper_bound=1.0,
    )
    start = torch.from_numpy(np.moveaxis(pixels, -1, 1).astype(np.float32) / 255)
    options = {
        "radius": radius,
        "step_size": radius / 8,
        "step_num": 20,
        "target": torch.from_numpy(truth),
        "random_start": True,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum warns about a gradient that it requires itself
        theirs = pgd.perturb(start, **options)
    with torch.no_grad():
        fooled = (run.network((theirs - mean) / std).argmax(1).numpy() != truth).mean()
    assert broken(engine, ours, truth).mean() >= fooled > 0
