"""Attacks stay within their radius, and succeed as often as Captum's."""

import warnings

import numpy as np
import pytest
import torch
from captum.robust import PGD

from service.runtime.engine import Engine
from training.audit.measures import attacks


@pytest.fixture(scope="module")
def engine(bundle):
    return Engine(bundle, "cpu", 1)


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_stays_within_its_radius(attack, engine, dataset):
    pixels, truth = dataset.test.pixels[:8], dataset.test.labels[:8]
    for radius in (1, 3):
        attacked = attacks.attacked_by(attack, engine, pixels, truth, radius / 255, seed=0)
        assert np.abs(attacked.astype(int) - pixels).max() <= radius
        assert not np.array_equal(attacked, pixels)


def test_attacks_through_the_bundle_succeed_as_often_as_captums(engine, run, dataset):
    pixels, truth, radius = dataset.test.pixels, dataset.test.labels, 16 / 255
    ours = attacks.attacked_by(attacks.ATTACKS[1], engine, pixels, truth, radius, seed=0)
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
    assert (engine.predict(ours).logits.argmax(1) != truth).mean() >= fooled
