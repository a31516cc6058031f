"""Edits change what their names promise, and nothing else."""

import numpy as np

from training.audit.measures import edits


def test_edits_change_what_they_promise_and_nothing_else(dataset):
    pixels = dataset.test.pixels[:4]
    assert np.array_equal(edits.mirror(edits.mirror(pixels)), pixels)
    assert np.array_equal(edits.hue(edits.hue(edits.hue(pixels))), pixels)
    assert np.ptp(edits.grey(pixels), axis=-1).max() == 0
    assert np.array_equal(edits.border(pixels)[:, 4:-4, 4:-4], pixels[:, 4:-4, 4:-4])
