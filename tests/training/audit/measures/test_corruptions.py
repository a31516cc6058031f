"""A corruption of a higher severity changes more, and the seed decides how."""

import numpy as np
import pytest

from training.audit.measures import corruptions


@pytest.mark.parametrize("name", sorted(corruptions.CORRUPTIONS))
def test_a_severer_corruption_changes_more_and_a_seed_always_the_same(name, dataset):
    pixels = dataset.test.pixels[:6]
    damage = []
    for severity in (1, 3, 5):
        corrupted = corruptions.corrupted(name, severity, pixels, seed=0)
        assert corrupted.shape == pixels.shape
        assert np.array_equal(corrupted, corruptions.corrupted(name, severity, pixels, seed=0))
        damage.append(np.abs(corrupted.astype(int) - pixels).mean())
    assert damage[0] > 0
    assert damage[2] > damage[0] or name == "saturation", "its severities go both ways"
