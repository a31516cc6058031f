"""A corruption of a higher severity changes more, and the seed decides how."""

import numpy as np
import pytest
from scipy import ndimage

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


@pytest.mark.parametrize("side", [1, 5, 17])
def test_a_convolution_equals_the_plain_sum_to_the_border(side):
    rng = np.random.default_rng(0)
    image, kernel = rng.uniform(size=(24, 24, 3)), rng.uniform(size=(side, side))
    plain = ndimage.convolve(image, kernel[..., None], mode="nearest")
    difference = np.abs(corruptions._convolved(image, kernel) - plain)
    assert difference.max() <= 1e-10, (difference.max(), difference.mean())
