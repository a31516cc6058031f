"""A slice with a lower accuracy is found, and no other."""

import numpy as np

from service.bundle.manifest import Manifest
from service.image.resize import Input
from training.audit.measures import slices
from training.data.images import Images

MANIFEST = Manifest("m", ("a", "b", "c"), Input(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))


def test_a_slice_with_a_lower_accuracy_is_found_and_no_other():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (900, 8, 8, 3), np.uint8) // 2 + np.repeat(
        rng.integers(0, 100, (900, 1, 1, 1)), 3, -1
    ).astype(np.uint8)
    truth = rng.integers(0, 3, 900)
    images = Images(pixels, truth)
    dark = slices.grouped(images)["brightness"] == "low"
    predicted = np.where(rng.uniform(size=900) < np.where(dark, 0.5, 0.05), (truth + 1) % 3, truth)
    figures = {
        (s["property"], s["slice"]): s
        for s in slices.slices(images, predicted, MANIFEST, seed=0)["slices"]
    }
    assert figures["brightness", "low"]["p_value"] < 0.01
    assert figures["brightness", "low"]["excess"] < -0.15
    assert figures["background_uniformity", "low"]["p_value"] > 0.05
